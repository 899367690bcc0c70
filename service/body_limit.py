"""Refuse a body that is too large before it fills the memory."""

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import ProblemError, problem_response


class BodyLimit:
    """ASGI middleware: 413 as soon as the declared or the received length passes ``max_body_bytes``.

    ``larger``: path → another limit.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, larger: Mapping[str, int] | None = None) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.larger = larger or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, watching its length."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.larger.get(scope["path"], self.max_body_bytes)
        expected = f"expected at most {limit} bytes in the body"
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            detail = f"{expected}, came {int(declared)}"
            await problem_response(413, "body-too-large", detail, scope["path"])(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:  # a chunked body declares no length
                raise ProblemError(413, "body-too-large", f"{expected}, came more")
            return message

        await self.app(scope, counted, send)
