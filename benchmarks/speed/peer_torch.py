"""torch, eager: the float convolution, the step of the head, and the learning step with straight-through signs."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from works import STE_WINDOW, Lesson, Loaded, conv, head, lesson


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x < 0, -1.0, 1.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() < STE_WINDOW)


class Block(nn.Module):
    def __init__(self, data: Lesson, i: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(data.weights[i].copy()))
        self.norm = nn.BatchNorm2d(len(data.mean[i]), eps=0.0).eval()  # statistics frozen, scale and offset trained
        with torch.no_grad():
            for tensor, values in (
                (self.norm.weight, data.gamma[i]),
                (self.norm.bias, data.beta[i]),
                (self.norm.running_mean, data.mean[i]),
                (self.norm.running_var, data.sigma[i] ** 2),
            ):
                tensor.copy_(torch.from_numpy(values))

    def forward(self, x: Tensor) -> Tensor:
        z = F.conv2d(F.pad(Sign.apply(x), (1, 1, 1, 1), value=1.0), Sign.apply(self.weight))
        return x + self.norm(F.relu(z))


class Tail(nn.Module):
    def __init__(self, data: Lesson) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(data, i) for i in range(3)))
        self.head = nn.Linear(data.head.shape[1], len(data.head))
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(data.head))
            self.head.bias.copy_(torch.from_numpy(data.bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.blocks(x)).mean((2, 3)))

    def in_order(self) -> list[nn.Parameter]:
        return [p for b in self.blocks for p in (b.weight, b.norm.weight, b.norm.bias)] + [self.head.weight, self.head.bias]


def version() -> str:
    return torch.__version__


def prepare(work: str, variant: str, folder: str) -> None:
    pass


def load(work: str, variant: str, folder: str, threads: int) -> Loaded:
    torch.set_num_threads(threads)
    if work == "head_step":
        return load_head()
    if work == "learning_step":
        return load_lesson(variant)
    return load_conv(work)


def load_conv(work: str) -> Loaded:
    data = conv(work)
    torch.set_grad_enabled(False)
    layer = nn.Conv2d(len(data.x), len(data.x), 3, padding=1, bias=False).eval()
    layer.weight.copy_(torch.from_numpy(data.weight))
    layer.to(memory_format=torch.channels_last)
    x = torch.from_numpy(data.x)[None].contiguous(memory_format=torch.channels_last)
    return Loaded(lambda: layer(x), lambda: layer(x)[0].numpy(), data.real, 0.9999)


def load_head() -> Loaded:
    data = head()
    layer = nn.Linear(1024, 50, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(data.weight))
    x, y, optimizer = torch.from_numpy(data.x), torch.from_numpy(data.labels), torch.optim.SGD(layer.parameters(), lr=data.rate)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(layer(x), y).backward()
        optimizer.step()

    return Loaded(step, lambda: layer.weight.detach().numpy() - data.weight, data.update, 0.9999)


def make_lesson(variant: str, data: Lesson) -> tuple[Tail, Any]:
    form = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}[variant]
    model = Tail(data).to(memory_format=form)
    x = torch.from_numpy(data.latents).contiguous(memory_format=form)
    y, optimizer = torch.from_numpy(data.labels), torch.optim.SGD(model.parameters(), lr=data.rate)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return model, step


def load_lesson(variant: str) -> Loaded:
    data = lesson()
    model, step = make_lesson(variant, data)
    return Loaded(step, lambda: data.scaled([p.grad.numpy() for p in model.in_order()]), lambda: data.scaled(data.gradients()), 0.999)


def status_bytes(field: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def facts(work: str, variant: str, folder: str) -> dict[str, Any]:
    """What the learning step needs above its parameters, input and program, in a process that has not made one yet.

    `bytes`: highest level of torch's own allocator, by its profiler; `resident_bytes`: growth of the process to its peak, which
    has also what oneDNN takes for itself, the code it makes, and pages of the library that are read for the first time.
    """
    if work != "learning_step":
        return {}
    torch.set_num_threads(1)
    model, step = make_lesson(variant, lesson())
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    resident = status_bytes("VmRSS")
    step()
    resident = status_bytes("VmHWM") - resident
    model.zero_grad(set_to_none=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "trace.json")
        profile.export_chrome_trace(path)
        with open(path) as file:
            events = json.load(file)["traceEvents"]
    memory = sorted(((e["ts"], e["args"]) for e in events if e["name"] == "[memory]"), key=lambda pair: pair[0])
    before = memory[0][1]["Total Allocated"] - memory[0][1]["Bytes"]
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    most = max(args["Total Allocated"] for _, args in memory) - before
    return {"bytes": most, "resident_bytes": resident, "parameter_bytes": parameters}
