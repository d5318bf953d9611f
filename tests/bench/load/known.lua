-- Each request comes from another client, says X-Forwarded-For; the first argument is the number of the first one.
local number = 0

init = function(args)
  number = tonumber(args[1])
end

request = function()
  local n = number
  number = n + 1
  wrk.headers["X-Forwarded-For"] = string.format("10.%d.%d.%d", n / 65536 % 256, n / 256 % 256, n % 256)
  return wrk.format()
end

done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d %d\n",
    summary.requests, summary.bytes, e.connect, e.read, e.write, e.status, e.timeout))
end
