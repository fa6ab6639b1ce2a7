"""What keeps others away from the page: other hosts, other sites, and who has no token.

The server listens on 127.0.0.1, yet every site that the same browser shows can send it requests. So each request must
name this very server as its host (a name that was made to point here does not: DNS rebinding), and must come from a
page of this server or from none. Steering needs a cookie besides, which a random token is exchanged for.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, abort, request

_SAME = ("same-origin", "none")
#: A trial's names and texts are never markup; this holds even if a library errs. Plotly and the grid set styles, and
#: Plotly's WebGL (many points, parallel coordinates) compiles its drawing commands, without which it draws nothing.
_POLICY = (
    "default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


#: Bytes of a request at most: a selection of 100,000 trials has less than one million.
BODY_LIMIT = 8 << 20


class Guard:
    """Checks requests to the server on `port`. `token` is None where nobody may steer."""

    def __init__(self, port: int, *, control: bool) -> None:
        self.hosts = frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost"))
        self.token = secrets.token_urlsafe(32) if control else None
        self._session = secrets.token_urlsafe(32)
        self.cookie = f"tune_platform_{port}"  # cookies know no ports: two pages would share one name

    def install(self, flask: Flask, script_hashes: Sequence[str]) -> None:
        """Check every request to the app, and let its answers say what a browser may do with them."""
        policy = _POLICY.format(hashes=" ".join(f"'{each.strip(chr(39))}'" for each in script_hashes))

        def answer(response: Response) -> Response:
            response.headers["Content-Security-Policy"] = policy
            response.headers.update(_HEADERS)
            return response

        flask.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT
        flask.before_request(self._check)
        flask.after_request(answer)
        flask.add_url_rule("/login", "login", self._login, methods=["POST"])

    def _check(self) -> None:
        host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
        if host not in self.hosts:
            abort(HTTPStatus.FORBIDDEN, "this is no name of this server")
        if origin is not None and origin not in {f"http://{each}" for each in self.hosts}:
            abort(HTTPStatus.FORBIDDEN, "requests of other sites are refused")
        opens_a_page = request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"
        if request.headers.get("Sec-Fetch-Site", "none") not in _SAME and not opens_a_page:
            abort(HTTPStatus.FORBIDDEN, "requests of other sites are refused")

    def _login(self) -> tuple[Any, int]:
        """Exchange the token, which was in the fragment of the address, for a cookie that no script can read."""
        given = request.get_json(silent=True)
        text = given.get("token") if isinstance(given, dict) else None
        if self.token is None or not isinstance(text, str) or not _equal(text, self.token):
            abort(HTTPStatus.FORBIDDEN, "this is not the token")
        response = Response(status=HTTPStatus.NO_CONTENT)
        response.set_cookie(self.cookie, self._session, httponly=True, samesite="Strict")
        return response, HTTPStatus.NO_CONTENT

    def may_control(self) -> bool:
        """Whether the present request comes from somebody who had the token."""
        return self.token is not None and _equal(request.cookies.get(self.cookie, ""), self._session)


def _equal(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode(), right.encode())
