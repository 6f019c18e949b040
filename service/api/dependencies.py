"""What routes ask for, as annotated types."""

from typing import Annotated

from fastapi import Depends, Request

from service.api.arrival import Arrival
from service.runtime import Runtime


def get_runtime(request: Request) -> Runtime:
    """The service that this app was made for."""
    runtime: Runtime = request.app.state.runtime
    return runtime


RuntimeDep = Annotated[Runtime, Depends(get_runtime)]


def get_arrival(request: Request) -> Arrival:
    """When the request came, under which id, and whose it is."""
    arrival: Arrival = request.state.arrival
    return arrival


ArrivalDep = Annotated[Arrival, Depends(get_arrival)]
