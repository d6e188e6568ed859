"""Base model of all declared things, and values with a source. Torch-free."""

from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

T = TypeVar("T")

Text = Annotated[str, Field(min_length=1)]


class Model(BaseModel):
    """Base model: immutable, without unknown keys or silent type conversions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


class Sourced(Model, Generic[T]):
    """A value that decides a number, with its source."""

    value: T
    source: Text = Field(description="paper section or equation, another paper's file and line, or 'chosen: why'")


def constrained(field: FieldInfo) -> Any:
    """A field's type with its constraints."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def with_sources(model: type[Model], name: str, *, partial: bool) -> type[Model]:
    """`model` with every field wrapped in `Sourced`; a field is optional if it has a default or if `partial`."""
    fields: dict[str, Any] = {}
    for key, field in model.model_fields.items():
        sourced = Sourced[constrained(field)]  # type: ignore[misc, valid-type]
        fields[key] = (sourced | None, None) if partial or not field.is_required() else (sourced, ...)
    return create_model(name, __base__=Model, __module__=__name__, **fields)
