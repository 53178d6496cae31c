"""Devices and threads of workers, and what is refused before anything is opened."""

from __future__ import annotations

import socket
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from aftermix.config import EvaluateConfig
from aftermix.errors import AftermixError
from aftermix.workers.layout import lay_out_cluster, lay_out_processes, needs_workers
from aftermix.workers.opening import find_site
from aftermix.workers.ray_actors import refuse_unreachable

TOO_FEW = "evaluate.workers: expected 4 GPUs (4 workers of 1), found 2 on this machine. Lower it, or compute on the CPU"


def read(**keys: Any) -> EvaluateConfig:
    return EvaluateConfig.model_validate({"tasks": ["a"], **keys})


def gpus(monkeypatch: pytest.MonkeyPatch, count: int, visible: str | None = None) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


def test_one_worker_is_the_process_itself() -> None:
    assert not needs_workers(read())
    assert all(needs_workers(read(**keys)) for keys in ({"workers": 2}, {"cluster": "ray"}, {"timeout_s": 9}))
    assert find_site(read()) is None


def test_gpus_are_dealt_out_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 4, "3,1,GPU-5a,0")
    layout = lay_out_processes(read(workers=3, threads=2))
    assert [each["CUDA_VISIBLE_DEVICES"] for each in layout.build_environments(2)] == ["3", "1", "GPU-5a"]
    assert layout.describe() == "3 processes of this machine, 2 CPU threads each, GPU 3 | 1 | GPU-5a"


def test_on_the_cpu_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    layout = lay_out_processes(read(workers=3, device="cpu"))
    assert (layout.gpus, layout.threads) == (0, 2)
    assert layout.build_environments(1) == ({"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},) * 3
    assert lay_out_processes(read(workers=99, device="cpu")).threads == 1


def test_a_cluster_deals_out_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aftermix.workers.layout.refuse_missing_extra", lambda *_, **__: None)
    asked = read(workers=2, cluster="ray")
    layout = lay_out_cluster(asked, {"CPU": 8.0, "GPU": 2.0})
    assert layout.describe() == "2 actors of Ray, 4 CPU threads each, 1 GPU each"
    assert layout.build_environments(4) == ({"OMP_NUM_THREADS": "4"},) * 2
    assert lay_out_cluster(asked, {"CPU": 8.0}).describe() == "2 actors of Ray, 4 CPU threads each, on the CPU"
    with pytest.raises(AftermixError, match="expected a cluster with a CPU for each of 2 workers, found 1"):
        lay_out_cluster(asked, {"CPU": 1.0})
    with pytest.raises(AftermixError, match=r"expected 2 GPUs \(2 workers of 1\), found 1 on the cluster"):
        lay_out_cluster(asked, {"CPU": 8.0, "GPU": 1.0})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"workers": 4}, TOO_FEW),
        (
            {"workers": 2, "device": "cuda:1"},
            "evaluate.device: expected auto, cpu or cuda, whose devices",
        ),
        (
            {"workers": 1, "timeout_s": 9, "gpus_per_worker": 2},
            "evaluate.gpus_per_worker: expected 1 with",
        ),
        ({"workers": 2, "function": "callable m:f"}, "evaluate.function: expected a function in a file"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(
    monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], message: str
) -> None:
    gpus(monkeypatch, 2)
    with pytest.raises(AftermixError) as refused:
        find_site(read(**keys))
    assert str(refused.value).startswith(message)


def test_fewer_than_one_worker_are_none() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        read(workers=0)


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_a_cluster_without_its_extra_is_refused() -> None:
    with pytest.raises(AftermixError) as refused:
        find_site(read(cluster="ray"))
    assert str(refused.value) == (
        "evaluate.cluster: ray: needs the extra `ray` of aftermix, of which ray is not installed. "
        "Install it: pip install 'aftermix[ray]'"
    )


def test_a_cluster_that_does_not_answer_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(AftermixError) as refused:
            refuse_unreachable(address)
    assert str(refused.value) == (
        f"evaluate.cluster: expected a cluster of Ray at RAY_ADDRESS={address}, found none (Connection refused). "
        "Start one by `ray start --head`, correct the address, or leave `cluster` out."
    )
