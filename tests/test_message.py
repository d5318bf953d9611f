"""The plain data of an exchange, as middleware uses it."""

from __future__ import annotations

import pytest

from iocproxy.message import Client, Headers, Request, Response, TlsInfo, reason_phrase


def client() -> Client:
    return Client("192.0.2.7", 4711, b"\xc0\x00\x02\x07", "127.0.0.1:8443")


def request(target: bytes = b"/a/b%20c?x=1&y=?2") -> Request:
    fields = [(b"Accept", b"*/*"), (b"accept", b"text/html")]
    return Request("GET", target, 11, fields, b"shop.test:8080", client(), "https")


class TestHeaders:
    def test_names_have_no_case_and_the_first_value_counts(self) -> None:
        headers = Headers([(b"X-One", b"1"), (b"x-one", b"2"), (b"Two", b"3")])
        assert headers["X-ONE"] == "1"
        assert headers.get_all("x-One") == ["1", "2"]
        assert headers.get_all("none") == []
        assert headers.get("none") is None
        assert list(headers) == ["x-one", "two"]
        assert len(headers) == 2
        assert "TWO" in headers
        assert "three" not in headers

    def test_assignment_replaces_every_field_of_that_name(self) -> None:
        fields = [(b"A", b"1"), (b"B", b"2"), (b"a", b"3")]
        headers = Headers(fields)
        headers["A"] = "new"
        assert fields == [(b"B", b"2"), (b"A", b"new")]

    def test_add_keeps_the_others(self) -> None:
        fields = [(b"Set-Cookie", b"a=1")]
        Headers(fields).add("Set-Cookie", "b=2")
        assert fields == [(b"Set-Cookie", b"a=1"), (b"Set-Cookie", b"b=2")]

    def test_deletion_takes_all_and_says_when_there_was_none(self) -> None:
        fields = [(b"A", b"1"), (b"a", b"2"), (b"B", b"3")]
        headers = Headers(fields)
        del headers["a"]
        assert fields == [(b"B", b"3")]
        with pytest.raises(KeyError):
            del headers["a"]
        with pytest.raises(KeyError):
            headers["a"]

    def test_any_octet_survives(self) -> None:
        fields = [(b"X", bytes(range(0x80, 0x100)))]
        headers = Headers(fields)
        headers["Y"] = headers["X"]
        assert fields[1] == (b"Y", fields[0][1])

    @pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "\xe4", "a\x00", "a(b)"])
    def test_what_is_no_name_is_refused(self, name: str) -> None:
        headers = Headers([])
        with pytest.raises(ValueError, match="not a field name"):
            headers.add(name, "x")
        with pytest.raises(ValueError, match="not a field name"):
            headers[name] = "x"
        assert headers.fields == []

    @pytest.mark.parametrize("value", ["a\r\nEvil: 1", "a\nb", "a\rb", "a\x00b", "\x7f", "a\x1bb"])
    def test_what_would_break_the_message_is_refused(self, value: str) -> None:
        fields = [(b"X", b"kept")]
        headers = Headers(fields)
        with pytest.raises(ValueError, match="control character"):
            headers["X"] = value
        with pytest.raises(ValueError, match="control character"):
            headers.add("X", value)
        assert fields == [(b"X", b"kept")]

    def test_blanks_around_a_value_are_dropped_and_a_tab_within_stays(self) -> None:
        headers = Headers([])
        headers["X"] = " \ta\tb \t"
        assert headers.fields == [(b"X", b"a\tb")]

    def test_repr_shows_the_fields(self) -> None:
        assert repr(Headers([(b"A", b"1")])) == "Headers([(b'A', b'1')])"


class TestRequest:
    def test_path_and_query_stay_encoded(self) -> None:
        assert request().path == "/a/b%20c"
        assert request().query == "x=1&y=?2"
        assert request(b"/only").query == ""
        assert request(b"*").path == "*"

    def test_address_and_key_are_the_clients_at_first(self) -> None:
        made = request()
        assert (made.address, made.key) == ("192.0.2.7", b"\xc0\x00\x02\x07")
        assert made.route == ""

    def test_headers_are_a_view(self) -> None:
        made = request()
        made.headers["X-New"] = "1"
        assert made.fields[-1] == (b"X-New", b"1")

    def test_state_belongs_to_one_request(self) -> None:
        one, other = request(), request()
        one.state["user"] = "me"
        assert one.state == {"user": "me"}
        assert other.state == {}

    def test_repr(self) -> None:
        assert repr(request(b"/x")) == "<Request GET shop.test:8080/x>"


class TestResponse:
    def test_defaults(self) -> None:
        response = Response(404)
        assert (response.status, response.reason, response.body, response.fields) == (404, b"Not Found", b"", [])
        assert repr(response) == "<Response 404>"

    def test_headers_as_pairs_or_as_a_mapping(self) -> None:
        pairs = Response(200, [("A", "1"), ("A", "2")])
        assert pairs.headers.get_all("a") == ["1", "2"]
        assert Response(200, {"A": "1"}).fields == [(b"A", b"1")]

    @pytest.mark.parametrize("status", [-1, 0, 100, 101, 199, 600, 1000])
    def test_only_a_final_status(self, status: int) -> None:
        with pytest.raises(ValueError, match="200 to 599"):
            Response(status)

    @pytest.mark.parametrize("status", [200, 599])
    def test_the_borders_of_a_final_status(self, status: int) -> None:
        assert Response(status).status == status

    def test_a_field_that_could_not_be_on_the_wire_is_refused(self) -> None:
        with pytest.raises(ValueError, match="control character"):
            Response(302, [("Location", "/\r\nSet-Cookie: a=b")])

    @pytest.mark.parametrize("reason", ["OK\r\nEvil: 1", "a\nb", "a\x00b"])
    def test_a_reason_that_would_break_the_message_is_refused(self, reason: str) -> None:
        with pytest.raises(ValueError, match="reason"):
            Response(200, reason=reason)

    def test_reasons(self) -> None:
        assert Response(200, reason="Fine").reason == b"Fine"
        assert Response(599).reason == b""
        assert reason_phrase(503) == b"Service Unavailable"
        assert reason_phrase(299) == b""

    def test_one_that_passes_has_no_body_of_its_own(self) -> None:
        fields = [(b"ETag", b'"x"')]
        passing = Response.passing(200, b"Okay", fields)
        assert passing.body is None
        assert passing.fields is fields
        assert passing.reason == b"Okay"


def test_a_client_says_whether_it_came_over_tls() -> None:
    made = client()
    assert repr(made) == "<Client 192.0.2.7:4711 at 127.0.0.1:8443>"
    made.tls = TlsInfo("TLSv1.3", "TLS_AES_128_GCM_SHA256", resumed=False, server_name="a.test", alpn="http/1.1")
    assert repr(made).endswith(" tls>")
