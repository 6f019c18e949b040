"""Who may change what is served: whoever knows the admin key."""

from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import Forbidden, Unauthorized
from service.http.dependencies import FrontDep

_bearer = HTTPBearer(auto_error=False, description="The service's admin_key.")


async def check_admin_key(
    runtime: FrontDep,
    given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> None:
    """Raise ``Forbidden`` if no key is set, ``Unauthorized`` if it is not the one given."""
    key = runtime.settings.admin_key
    if key is None:
        raise Forbidden("no admin_key is set (NESTLING_ADMIN_KEY), so nobody may do this")
    if given is None or key.owner(given.credentials) is None:
        raise Unauthorized("Authorization: Bearer with the admin key is needed")


AdminDep = Depends(check_admin_key)
