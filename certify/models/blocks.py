"""Modular Diffusers: a block that does what another does, with some of its outputs replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["replacing"]


def replacing(own: Any, replace: Callable[[Mapping[str, Any], Mapping[str, Any]], Mapping[str, Any]]) -> Any:
    """A block in place of another one: the same components, inputs and outputs.

    Args:
        own: the block, a `ModularPipelineBlocks`.
        replace: (inputs and all else that the state holds, the block's own outputs) → outputs to put in their place.

    Raises:
        TypeError: it is no block.
    """
    from diffusers import ModularPipelineBlocks

    if not isinstance(own, ModularPipelineBlocks):
        raise TypeError(f"own is a {type(own).__name__}: must be a block of Modular Diffusers (ModularPipelineBlocks)")

    class Replacing(ModularPipelineBlocks):  # type: ignore[misc]
        model_name = own.model_name

        @property
        def description(self) -> str:
            return f"{own.description} What it gives of the prompt is smoothed (certify)."

        @property
        def expected_components(self) -> Any:
            return own.expected_components

        @property
        def expected_configs(self) -> Any:
            return own.expected_configs

        @property
        def inputs(self) -> Any:
            return own.inputs

        @property
        def intermediate_outputs(self) -> Any:
            return own.intermediate_outputs

        def __call__(self, components: Any, state: Any) -> Any:
            before = {param.name: param.default for param in own.inputs if param.name} | dict(state.values)
            components, state = own(components, state)
            names = {output.name: output for output in own.intermediate_outputs}
            made = {name: state.get(name) for name in names}
            for name, value in replace(before, made).items():
                state.set(name, value, names[name].kwargs_type)
            return components, state

    return Replacing()
