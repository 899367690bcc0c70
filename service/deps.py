"""What routes ask for, each named once."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Annotated, Any

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader
from sqlalchemy import Engine

from recsys.request import Slate
from service.keys import KeyRing
from service.live import LiveRelease
from service.metrics import Metrics
from service.newcomers import Newcomers
from service.problems import ProblemError
from service.settings import Settings
from service.slate_log import SlateLog


@dataclass(frozen=True, slots=True)
class Service:
    """What one app holds for as long as it runs; the lifespan builds it."""

    settings: Settings
    engine: Engine
    live: LiveRelease
    slate_log: SlateLog
    newcomers: Newcomers
    keys: KeyRing
    metrics: Metrics
    recommend: Callable[..., list[Slate]]  # recsys.recommend.recommend, or a test's
    writers: CapacityLimiter  # of the threads of writes(); the other requests share theirs


async def _service(request: Request) -> Service:  # async, so that FastAPI does not spend a thread on it
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(_service)]


def writes(endpoint: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """A route that writes to the database, in threads of its own.

    A writer may wait for another, an import say, and must not take a thread from those who only read.
    """

    @wraps(endpoint)
    async def in_own_threads(*, service: Service, **arguments: Any) -> Any:
        return await run_sync(partial(endpoint, service=service, **arguments), limiter=service.writers)

    return in_own_threads


_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="needs the scope named with the call, or admin")
_Key = Annotated[str | None, Security(_header)]


class RequireScope:
    """Dependency: the request's key has this scope. Passes every request where the service asks for no keys."""

    def __init__(self, scope: str) -> None:
        self.scope = scope

    async def __call__(self, service: ServiceDep, key: _Key) -> None:
        """Pass, or answer 401 or 403."""
        if not service.settings.asks_for_keys:
            return
        if key is None:
            detail = f"expected an API key with the scope {self.scope} in the header X-API-Key, came none"
            raise ProblemError(401, "no-api-key", detail, headers={"WWW-Authenticate": "ApiKey"})
        scopes = service.keys.scopes_of(key)
        if scopes is None:
            detail = "the API key in X-API-Key is unknown or revoked"
            raise ProblemError(401, "unknown-api-key", detail, headers={"WWW-Authenticate": "ApiKey"})
        if self.scope not in scopes and "admin" not in scopes:
            detail = f"expected an API key with the scope {self.scope}, this one has {', '.join(sorted(scopes))}"
            raise ProblemError(403, "scope-missing", detail)


needs_read = Depends(RequireScope("read"))
needs_write = Depends(RequireScope("write"))
