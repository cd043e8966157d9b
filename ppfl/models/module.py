"""A torch module that a function in a file beside the configuration builds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, JsonValue

from ppfl.core.errors import UserError
from ppfl.core.source_function import SourceFunction, UnfitArgumentsError
from ppfl.networks.model import Model, Stage, Takes

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.core.plugins import Example


class Module(Model):
    """samples -> the module that a function returns: an nn.Module, an nn.Sequential, or a dict of modules by name.

    The parts of the last two are stages, so that those before the first local parameter are run once for all clients.
    The function may ask for `input_shape` and `num_classes` by name. Globs of the split are compared with the module's
    parameters when the problem is built; what it must be, `ppfl.networks.module_checks` says.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    name: Literal["module"]
    example: ClassVar[Example] = {"from": "my_models:build", "arguments": {"width": 6}}
    function: SourceFunction = Field(alias="from")
    """The file, below the configuration's folder, and the function in it, e.g. "my_models:build"."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """What the function is called with, by name."""
    samples: Takes = "numbers"
    """What the module takes: floating numbers, or tokens, (S, T) int64, for which its logits are (S, T, vocabulary)."""
    buffers: Literal["refused", "shared"] = "refused"
    """`shared`: it may have buffers that are the same for all clients and never change, such as tables of positions."""

    @property
    def takes(self) -> Takes:
        """What `samples` says."""
        return self.samples

    def parameter_names(self) -> None:
        """Nobody knows before the function is called."""
        return

    def stages(self, input_shape: tuple[int, ...], num_classes: int) -> tuple[Stage, ...]:
        """Import the file, build the module and check it. Raises UserError for whatever is wrong with it."""
        # imported here: its classes are made of torch's, which configurations are read without
        from ppfl.networks.modules import stages_of

        return stages_of(self._builder(input_shape, num_classes), input_shape, self.samples, self.buffers)

    def _builder(self, input_shape: tuple[int, ...], num_classes: int) -> Callable[[], Any]:
        try:
            call = self.function.bind(self.arguments, {"input_shape": input_shape, "num_classes": num_classes})
        except UnfitArgumentsError as error:
            raise UserError(f"problem.model.arguments: {error}") from error

        def build() -> Any:
            try:
                return call()
            except UserError as error:
                raise UserError(f"problem.model.from: {error}") from error

        return build
