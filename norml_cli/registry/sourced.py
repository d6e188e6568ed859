"""What any declared thing is made of: closed models, and values that name their source. Torch-free."""

from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

T = TypeVar("T")

Text = Annotated[str, Field(min_length=1)]


class Model(BaseModel):
    """Base of every declared thing: unknown keys and silent type changes are refused, values never change."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)


class Sourced(Model, Generic[T]):
    """A value that decides a number, with where it comes from."""

    value: T
    source: Text = Field(description="paper section or equation, another paper's file and line, or 'chosen: why'")


def constrained(field: FieldInfo) -> Any:
    """The type of a model's field with its constraints."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def with_sources(model: type[Model], name: str, *, partial: bool) -> type[Model]:
    """The sourced form of `model`: every field wrapped in `Sourced`, and optional if `partial` or of a default."""
    fields: dict[str, Any] = {}
    for key, field in model.model_fields.items():
        sourced = Sourced[constrained(field)]  # type: ignore[misc, valid-type]
        fields[key] = (sourced | None, None) if partial or not field.is_required() else (sourced, ...)
    return create_model(name, __base__=Model, __module__=__name__, **fields)
