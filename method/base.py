"""The contract of a method: post-RoPE query and key in, a block mask out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from method.blocks import BlockMask
from method.keep import KeepPolicy


@dataclass(frozen=True)
class Knob:
    """The setting of a method that buys density: what a calibration turns.

    From ``low`` to ``high`` it never keeps fewer blocks, and ``high`` keeps all of them.

    Attributes:
        name: name of the setting.
        low: sparsest value worth trying; above ``high`` where less of the setting keeps more.
        high: value that makes the method dense, whatever the length.
        whole: the setting is a whole number, such as a count of tokens.
    """

    name: str
    low: float
    high: float
    whole: bool = False


class Method(ABC):
    """One sparse-prefill rule. Subclass it in one file, name the class in one YAML.

    A method decides *which* 128x128 blocks are computed; the shared executor computes them, so
    methods differ in nothing else. Instances hold settings only and are safe to re-use.
    """

    paper_keep: ClassVar[KeepPolicy]
    """What the method's own paper or code always keeps; used when the run says ``keep=paper``."""

    version: ClassVar[int] = 1
    """Raised by hand when the blocks that it selects change: part of what identifies a result."""

    dense: ClassVar[bool] = False
    """True only for the dense baseline, which the executor sends to exact attention."""

    knob: ClassVar[Knob | None] = None
    """The setting that buys density; None for a method without one."""

    causal_choice: ClassVar[bool] = True
    """Whether later tokens never change the blocks of an earlier query block. False for methods that
    judge a prompt by its last queries, or treat its last rows apart: a prompt that is cut into chunks
    is judged chunk by chunk."""

    @property
    def has_kernel(self) -> bool:
        """Whether there is a kernel for its settings, which ``estimator: auto`` takes on a GPU."""
        return True

    @property
    def launches_only(self) -> bool:
        """Whether, on a GPU, selecting does nothing but launch kernels through
        :mod:`method.ops.launch`, the same ones in every layer: the executor then repeats the launches
        that it has seen for such shapes, without asking the method. Only for a method whose
        :meth:`attend` is None.
        """
        return False

    @abstractmethod
    def select(
        self, query: Tensor, key: Tensor, *, scale: float, layer: int, keep: KeepPolicy
    ) -> BlockMask:
        """Choose the key blocks of every query row.

        Args:
            query: ``[B, Hq, Lq, D]`` after RoPE, any strides.
            key: ``[B, Hkv, Lk, D]`` after RoPE, KV heads *not* repeated; query head ``h`` reads
                KV head ``h // (Hq // Hkv)``. ``Lk >= Lq``: queries are the last ``Lq`` tokens.
            scale: factor on the logits, usually ``D ** -0.5``.
            layer: index of the decoder layer.
            keep: blocks that must be in the answer.

        Returns:
            A :class:`BlockMask` with nothing above the causal diagonal.
        """

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        layer: int,
        keep: KeepPolicy,
    ) -> tuple[Tensor, Tensor] | None:
        """Attend by the method's own kernel, where blocks of 128 cannot express what it computes.

        Arguments as for :meth:`select`, and ``value`` of the key's shape. Most methods have no
        kernel of their own and leave this as it is.

        Returns:
            None to use :meth:`select` and the shared kernel; else the output ``[B, Hq, Lq, D]`` in
            the query's dtype, and the density, fp32 ``[B, Hq]``: pairs computed over the pairs in
            the blocks of the causal triangle.
        """
        return None

    def own_kernel(self, query: Tensor) -> str:
        """What :meth:`attend` computes by for tensors like ``query``: its name in records."""
        return "native"
