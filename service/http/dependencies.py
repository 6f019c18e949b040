"""What routes ask for, as annotated types.

All are coroutines: FastAPI gives what is none to a pool of threads, which one slow route can fill.
"""

from typing import Annotated

from fastapi import Depends, Request

from service.front import Front
from service.requests.request_start import Arrival
from service.runtime import Runtime


async def get_front(request: Request) -> Front:
    """The service that this app was made for, wherever its engine is."""
    front: Front = request.app.state.runtime
    return front


FrontDep = Annotated[Front, Depends(get_front)]


async def get_runtime(request: Request) -> Runtime:
    """The same where the engine is: what ``service.processes.forwarded_routes`` names is asked
    there."""
    runtime: Runtime = request.app.state.runtime
    return runtime


RuntimeDep = Annotated[Runtime, Depends(get_runtime)]


async def get_arrival(request: Request) -> Arrival:
    """When the request came, under which id, and whose it is."""
    arrival: Arrival = request.state.arrival
    return arrival


ArrivalDep = Annotated[Arrival, Depends(get_arrival)]
