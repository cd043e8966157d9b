"""A torch module that a function in a file beside the configuration builds."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, JsonValue

from ppfl.core.errors import UserError
from ppfl.core.source_function import SourceFunction
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
        function = self.function.load()
        known = {"input_shape": input_shape, "num_classes": num_classes}
        try:
            asked = inspect.signature(function).parameters
            arguments = {**{name: value for name, value in known.items() if name in asked}, **self.arguments}
            # before the call, in which the same TypeError could come from inside of the function
            inspect.signature(function).bind(**arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f"problem.model.arguments: {self.function.name}: {error}") from error

        def build() -> Any:
            try:
                return function(**arguments)
            except (Exception, SystemExit) as error:
                where, why = self.function.files.where(error), str(error).split("\n", 1)[0]
                raise UserError(f"problem.model.from: {where}: {type(error).__name__}: {why}") from error

        return build
