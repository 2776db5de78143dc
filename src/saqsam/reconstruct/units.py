"""The parts of a SAM that are learned one after another.

What flows from unit to unit is a ``State``. Encoder: tokens ``(images, H, W, D)`` and what the family carries
beside them, after the neck the tensors of an ``Embedding``. Decoder: queries ``(P, 1, T, C)``, keys
``(P, 1, N, C)``, prompt tokens ``(P, 1, T, C)``.

Encoder: stages that end at each block with global attention (SAQ-SAM section 3.3), or single blocks; then
the neck. Decoder: each two-way layer; then the final attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from saqsam.errors import InvariantError
from saqsam.families.record import Encoder, Model, RowSubset, State
from saqsam.families.registry import decoder_of, encoder_of, sizes_of
from saqsam.models.sites import DECODER, ENCODER, Site
from saqsam.modules.quantizer import Quantizer
from saqsam.reconstruct.prompting import Prompting

UnitQuantizers = Mapping[Site, Quantizer]
"""A unit's quantizers by site, in the order of the model's."""


@dataclass(frozen=True)
class Unit:
    """One part that is learned together.

    Attributes:
        name: for files, seeds and progress: ``encoder-stage-0``, ``neck``, ``decoder-layer-1``.
        part: ``encoder`` or ``decoder``.
        modules: the modules it consists of.
        run: the unit itself, from state to state.
        view: what the prompt-aware term compares, of the state after the unit and the images in it; ``None``
            where prompts cannot see it.
        mixed: indices of the state's tensors that QDrop mixes at the unit's input.
        local: weight of each of the state's tensors in the local term; 0 leaves it out, as it does what a
            state has beyond them.
        channels: dimension over which the local term sums squares.
        rows: of a single block of the encoder, whose rows of tokens can be learned apart.
    """

    name: str
    part: str
    modules: tuple[nn.Module, ...]
    run: Callable[[State], State]
    view: Callable[[State, Sequence[int]], Tensor] | None
    mixed: tuple[int, ...]
    local: tuple[float, ...]
    channels: int = -1
    rows: RowSubset | None = None

    def quantizers(self, quantizers: UnitQuantizers) -> UnitQuantizers:
        """Those of the model's quantizers that lie inside this unit, in the same order."""
        inside = {id(module) for part in self.modules for module in part.modules()}
        return {site: quantizer for site, quantizer in quantizers.items() if id(quantizer) in inside}

    def seen(self, state: State, images: Sequence[int]) -> Tensor:
        """What the prompt-aware term compares; see ``view``.

        Raises:
            InvariantError: prompts cannot see this unit.
        """
        if self.view is None:
            raise InvariantError(self.name, "is compared by what prompts see of it, and they cannot see it")
        return self.view(state, images)


def encoder_units(model: Model, prompting: Prompting, kind: str) -> Iterator[Unit]:
    """The encoder's units in order; ``kind`` is ``stage``, or anything else for single blocks."""
    encoder = encoder_of(model)
    word = "stage" if kind == "stage" else "block"

    for index, blocks in enumerate(encoder_groups(model, kind)):

        def view(state: State, images: Sequence[int], after: int = blocks.stop) -> Tensor:
            # Layer skipping: past all later stages, straight into the neck.
            return prompting.image_tokens(encoder.skip(state, after), images)

        modules = tuple(encoder.blocks[block] for block in blocks)
        rows = encoder.rows_of(modules[0]) if len(modules) == 1 else None
        name, seen = f"encoder-{word}-{index}", view if encoder.reaches_neck(blocks.stop) else None
        yield Unit(name, ENCODER, modules, _chain(encoder, blocks), seen, (0,), (1.0,), rows=rows)

    def finish(state: State) -> State:
        return encoder.finish(state).tensors

    def after_neck(state: State, images: Sequence[int]) -> Tensor:
        return prompting.image_tokens(state[0], images)

    local = (1.0,) * len(sizes_of(model).embedding)
    yield Unit("neck", ENCODER, encoder.neck_parts, finish, after_neck, (0,), local, channels=1)


def encoder_groups(model: Model, kind: str) -> list[range]:
    """Block numbers of each unit; the family says where its stages end."""
    encoder = encoder_of(model)
    if kind != "stage":
        return [range(block, block + 1) for block in range(len(encoder.blocks))]
    ends = encoder.stage_ends()
    return [range(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


def _chain(encoder: Encoder, blocks: range) -> Callable[[State], State]:
    def run(state: State) -> State:
        for index in blocks:
            state = encoder.carry(index, state, encoder.blocks[index](state[0]))
        return state

    return run


def decoder_units(model: Model, prompting: Prompting, token_weight: float) -> Iterator[Unit]:
    """The decoder's units in order; the final attention's local term is on its tokens alone."""
    decoder = decoder_of(model)
    positions = prompting.image_positions()

    def layer(module: nn.Module, state: State) -> State:
        queries, keys, tokens = state
        return (*decoder.layer(module, queries, keys, tokens, positions), tokens)

    def final(state: State) -> State:
        queries, keys, tokens = state
        return decoder.final_attention(queries, keys, tokens, positions), keys, tokens

    for index, module in enumerate(decoder.layers):

        def run(state: State, module: nn.Module = module) -> State:
            return layer(module, state)

        def view(state: State, images: Sequence[int], after: int = index + 1) -> Tensor:
            for later in list(decoder.layers)[after:]:
                state = layer(later, state)
            return decoder.final_norm(final(state)[0])

        weights = (token_weight, 1.0, 0.0)
        yield Unit(f"decoder-layer-{index}", DECODER, (module,), run, view, (0, 1), weights)

    def tokens(state: State, images: Sequence[int]) -> Tensor:
        return decoder.final_norm(state[0])

    yield Unit("final-attention", DECODER, (decoder.final,), final, tokens, (0, 1), (1.0, 0.0, 0.0))
