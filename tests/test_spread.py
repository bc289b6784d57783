"""Models over several GPUs, as far as one CPU can tell: plain fakes stand for the devices."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import dispatch_model
from torch import nn

from method.attention import PrefillResult
from rr_bench.config.schema import ModelSettings
from rr_bench.model import spread
from rr_bench.model.choice import why_not
from rr_bench.model.lm import SparseHFLM
from rr_bench.model.loading import load_model
from rr_bench.model.recorder import Recorder
from rr_bench.model.spread import check_spread, devices, on_device_of, split
from rr_bench.plan.model_facts import CheckpointError, Device
from rr_bench.run.run import run
from rr_bench.run.workers import environments, shares
from tests.runs import errors
from tests.test_lm import PROMPT, SPARSE, generation, nested_requests

H100 = Device("cuda", "H100", "9.0")


class Placed(nn.Module):
    """A decoder whose layers claim to lie where they are told."""

    def __init__(self, *places: str) -> None:
        super().__init__()
        self.places = [torch.device(place) for place in places]
        self.layers = [
            SimpleNamespace(parameters=lambda place=place: iter([SimpleNamespace(device=place)]))
            for place in self.places
        ]

    def parameters(self, recurse=True):
        return (SimpleNamespace(device=place) for place in self.places)

    def get_decoder(self):
        return self

    @property
    def device(self):
        return self.places[0]


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs that torch claims to see, the second of the capability that is set."""
    kinds = {0: (9, 0), 1: (9, 0)}
    monkeypatch.setattr(spread.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        spread.torch.cuda, "get_device_capability", lambda place: kinds[torch.device(place).index]
    )
    return kinds


def test_the_record_says_which_layers_lie_where():
    assert split(Placed("cpu", "cpu")) is None
    model = Placed("cuda:0", "cuda:0", "cuda:1")
    assert split(model) == {"cuda:0": "0-1", "cuda:1": "2"}
    assert devices(model) == [torch.device("cuda:0"), torch.device("cuda:1")]
    assert split(Placed("cuda:0", "cuda:1", "cuda:0")) == {"cuda:0": "0, 2", "cuda:1": "1"}


def test_layers_outside_the_gpus_or_on_another_kind_are_refused(two_gpus):
    check_spread(Path("llama"), Placed("cuda:0", "cuda:1"), H100, "auto")
    for place, words in (("meta", "CPU memory or the disk"), ("cpu", "cpu memory")):
        with pytest.raises(CheckpointError, match=f"llama does not fit on the 2 GPUs.*{words}"):
            check_spread(Path("llama"), Placed("cuda:0", place), H100, "auto")
    two_gpus[1] = (8, 0)
    with pytest.raises(CheckpointError, match=r"different compute capabilities \(8.0, 9.0\)"):
        check_spread(Path("llama"), Placed("cuda:0", "cuda:1"), H100, "auto")


def test_a_cpu_has_nothing_to_spread_over(make, smallest, capsys):
    with pytest.raises(CheckpointError, match="the run is on cpu"):
        load_model(smallest, dtype="float32", device=Device("cpu", "cpu"), device_map="auto")
    assert run(make(model=ModelSettings(path=str(smallest), name="tiny", device_map="auto"))) == 1
    assert errors(capsys) == [
        "error: model: model.device_map=auto spreads a model over GPUs, the run is on cpu: leave it out"
    ]


def test_modules_that_accelerate_has_wrapped_take_a_sparse_prefill(smallest):
    def answers(wrap):
        loaded = load_model(smallest, dtype="float32", device=Device("cpu", "cpu"))
        model = loaded.model
        if wrap:
            dispatch_model(model, {"model": "cpu", "lm_head": "cpu"}, force_hooks=True)
        lm = SparseHFLM(model, loaded.tokenizer, SPARSE)
        values = lm.loglikelihood(nested_requests(), disable_tqdm=True)
        density = lm.stats["task", 0].density
        return lm.generate_until([generation(PROMPT, max_gen_toks=8)], True), values, density

    assert answers(True) == answers(False)


def test_no_graph_of_a_spread_model():
    assert why_not(Placed("cuda:0", "cuda:1")) == "the model is spread over several GPUs"


def test_densities_of_layers_on_several_devices_come_together():
    class Elsewhere(torch.Tensor):
        """A number on another device: it must be moved before it meets one from here."""

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function is torch.stack:
                raise RuntimeError("Expected all tensors to be on the same device")
            if function is torch.Tensor.to and args[1:] and isinstance(args[1], torch.device):
                return args[0].as_subclass(torch.Tensor)
            return super().__torch_function__(function, types, args, kwargs or {})

    recorder = Recorder((0, 1))
    for layer, density in enumerate((torch.tensor([[0.5]]), torch.tensor([[0.25]]))):
        found = density.as_subclass(Elsewhere) if layer else density
        recorder.add(layer, PrefillResult(torch.zeros(1), found, "torch"), 128, 128)
    assert recorder.summary()["density_by_layer"] == [0.5, 0.25]


def test_nothing_is_switched_for_a_cpu():
    with on_device_of(torch.zeros(1)):
        pass


def test_workers_that_spread_their_model_share_no_gpu():
    assert shares(["0", "1", "2", "3", "4"], 2) == ["0,1", "2,3"]
    places = environments(2, shares(["0", "1", "2", "3"], 2))
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places] == ["0,1", "2,3"]
    with pytest.raises(CheckpointError, match=r"workers=3 .* 2 are visible"):
        shares(["0", "1"], 3)
