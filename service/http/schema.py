"""The base of all bodies, and the one body of every error of ours."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.http.bounds import few_fields


class Schema(BaseModel):
    """Strict about types and names."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, body: object) -> object:
        return few_fields(body)


class ErrorDetail(Schema):
    """What went wrong."""

    message: str
    type: str
    code: str
    param: str | None = Field(description="The field that is at fault, if one is.")


class ErrorBody(Schema):
    """The one shape of every error."""

    error: ErrorDetail
