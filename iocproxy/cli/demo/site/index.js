"use strict";

const byId = (id) => document.getElementById(id);

byId("burst").addEventListener("click", async () => {
  const button = byId("burst");
  const said = byId("burst-said");
  button.disabled = true;
  said.className = "";
  const seen = new Map();
  let wait = null;
  try {
    for (let sent = 0; sent < 320; sent += 20) {
      said.textContent = `${sent} sent…`;
      const batch = Array.from({ length: 20 }, () => fetch("/json", { cache: "no-store" }));
      for (const response of await Promise.all(batch)) {
        seen.set(response.status, (seen.get(response.status) ?? 0) + 1);
        wait = response.headers.get("Retry-After") ?? wait;
        await response.arrayBuffer();
      }
    }
    const counts = [...seen].map(([status, count]) => `${count} × ${status}`).join(", ");
    said.textContent = wait === null ? counts : `${counts}. Retry-After: ${wait} s`;
    said.className = wait === null ? "" : "refused";
  } catch (error) {
    said.textContent = `failed: ${error.message}`;
  } finally {
    button.disabled = false;
  }
});

byId("file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (file === undefined) return;
  const said = byId("upload-said");
  said.textContent = `sending ${file.name}…`;
  try {
    const response = await fetch("/upload", { method: "POST", body: file });
    if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
    const answer = await response.json();
    said.textContent = `${answer.bytes.toLocaleString("en")} bytes arrived`;
  } catch (error) {
    said.textContent = `failed: ${error.message}`;
  }
});
