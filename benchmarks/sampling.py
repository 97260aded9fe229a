"""Whole samples: the public SDM reference and ours in one process, interleaved, at equal weights and noise.

    python -m benchmarks.sampling --reference PATH [--config S M] [--guidance 1 1.5] [--device cpu]
        [--precision fp32 bf16] [--steps 40] [--repeats 3] [--threads 1] [--batch 1] [--end-steps 200]
    python -m benchmarks.sampling --reference PATH --config L --compose    where whole samples take hours
    python -m benchmarks.sampling --reference PATH --config XS             a self-check, in a minute

PATH is a checkout of https://github.com/WeilunWang/semantic-diffusion-model. Reference: `ddim_sample_loop`
of its `ddimN`, in fp32; on a GPU in its own fp16. Ours: `Pipeline.sample` with DDIM at the same steps, then
with the recipe's own solver and steps. TFLOP/s are those of the operations that a side needs. Errors of the
image and of one forward pass, to the reference in fp32, are root mean square over root mean square / largest
difference over largest value; of the image to the end point, DDIM with --end-steps linearly spaced steps, the
former. Under the cosine schedule up to 6e-6 of the image's error is the reference's own: it takes
sqrt(1 - abar) of the last steps in fp32, where abar is 0.99996. The weights are random, nearly a denoiser of
nothing but noise: times and errors of rounding are those of a trained model, the way to the end point need
not be. Peak memory is that of a fresh process with two steps, less what it held before the network was
built.

With --compose a sample is not run but composed: of the reference's forward passes, one or with guidance two
per step; ours of T(n) = preparation + n steps, from samples of one and of three steps. The rows say so.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from msdm_kit.core.errors import MsdmError
from msdm_kit.core.recipe import SampleSection
from msdm_kit.plugins.solver import load_solver

from .flops import Flops
from .reference import CONFIGS, TIMESTEPS, Ours, Reference, add_options, guide, set_up
from .timing import fresh, head, interleaved, machine, peak_mib, relative, row, speedup

COLUMNS = (
    *("config", "guidance", "what", "seconds", "times faster", "TFLOP/s"),
    *("error of the image", "error of one pass", "error to the end point", "peak, MiB"),
)
FORWARD_AT = 500


class Pair:
    """The reference and ours at the same weights.

    Parameters
    ----------
    reference : Reference
    name : str
        Of the configuration.
    args : argparse.Namespace
    """

    def __init__(self, reference: Reference, name: str, args: argparse.Namespace) -> None:
        self.name, self.config, self.args = name, CONFIGS[name], args
        self.device = torch.device(args.device)
        self.half = self.device.type == "cuda"
        model = reference.unet(self.config)
        self.ours = Ours(reference, self.config, model, self.device)
        self.model: Any = model.to(self.device)
        self.diffusion = reference.diffusion(args.steps)
        self.noise = self.ours.noise(args.batch)
        self.map = guide(self.config).to(self.device).expand(args.batch, -1, -1, -1)
        self.flops = Flops.of(reference, self.config)
        self.at = torch.full((args.batch,), FORWARD_AT, device=self.device)

    @torch.no_grad()
    def forward(self) -> Tensor:
        """One pass of the reference's network."""
        out: Tensor = self.model(self.noise, self.at, self.map)
        return out

    def once(self, side: str) -> Tensor:
        """One pass of the reference's network, or of ours in a precision."""
        return self.forward() if side == "reference" else self.ours.forward(self.noise, self.at, side)

    def sample(self, guidance: float) -> Tensor:
        """The reference's sample."""
        return reference_sample(self.model, self.diffusion, self.noise, self.map, guidance)

    def ddim(self, guidance: float, **settings: Any) -> Tensor:
        """Ours by the same solver at the same steps."""
        same = {"solver": "ddim", "steps": self.args.steps, "spacing": "leading", "eta": 0.0}
        return self.ours.sample(self.args.batch, **{**same, "guidance": guidance, **settings})

    def end(self, guidance: float) -> Tensor | None:
        """Where many steps lead, in fp32."""
        if not self.args.end_steps:
            return None
        return self.ddim(guidance, steps=self.args.end_steps, spacing="linspace", precision="fp32")

    def default(self, guidance: float, **settings: Any) -> Tensor:
        """Ours by the recipe's own solver, spacing and steps."""
        return self.ours.sample(self.args.batch, guidance=guidance, **settings)

    def default_settings(self) -> SampleSection:
        """What the recipe samples with, steps and spacing filled in."""
        section = self.ours.pipeline().settings()
        return load_solver(section.solver).settle(section, TIMESTEPS)

    def lower(self) -> None:
        """The reference in its own fp16."""
        self.model.convert_to_fp16()
        self.model.dtype = torch.float16


def reference_sample(model: Any, diffusion: Any, noise: Tensor, y: Tensor, guidance: float) -> Tensor:
    """The reference's DDIM with its guidance: the map zeroed in a second pass."""
    words = {"y": y, "s": guidance}
    sample: Tensor = diffusion.ddim_sample_loop(
        model, tuple(noise.shape), noise=noise, clip_denoised=True, model_kwargs=words, device=noise.device
    )
    return sample


def whole(pair: Pair) -> None:
    """Whole samples of a configuration, every guidance and precision."""
    args = pair.args
    one_pass = pair.forward()
    exact = {g: (pair.sample(g), pair.end(g)) for g in args.guidance}
    if pair.half:
        pair.lower()
    section = pair.default_settings()
    steps, spacing = section.walk
    default = f"{section.solver} {steps} {spacing}"
    plans = [
        (f"DDIM {args.steps}", pair.ddim, args.steps),
        (default, pair.default, load_solver(section.solver).evaluations(steps)),
    ]
    reference = f"reference, {'fp16' if pair.half else 'fp32'}, DDIM {args.steps}"
    for guidance in args.guidance:
        pair.ours.forget()
        calls: dict[str, Callable[[], Tensor]] = {reference: partial(pair.sample, guidance)}
        of = {reference: "reference"}
        flops = {reference: pair.flops.theirs(args.steps, guidance)}
        for precision in args.precision:
            for what, call, evaluations in plans:
                name = f"ours, {precision}, {what}"
                calls[name] = partial(call, guidance, precision=precision)
                of[name] = precision
                flops[name] = pair.flops.ours(evaluations, guidance)
        painted: dict[str, Tensor] = {}

        def keep(name: str, call: Callable[[], Tensor], painted: dict[str, Tensor] = painted) -> None:
            painted[name] = call()

        kept = {name: partial(keep, name, call) for name, call in calls.items()}
        seconds = interleaved(kept, args.repeats, device=args.device)
        image, end = exact[guidance]
        peaks = {side: peak(pair, side, guidance) for side in ("reference", *args.precision)}
        for name, times in seconds.items():
            same = name == reference or not name.endswith(default)
            side = of[name]
            once = pair.once(side)
            row(
                *(pair.name, f"{guidance:g}", name, f"{statistics.median(times):.3f}"),
                f"{speedup(seconds[reference], times):.2f}",
                rate(args.batch * flops[name], statistics.median(times)),
                both(painted[name], image) if same else "-",
                both(once, one_pass) if same else "-",
                "-" if end is None else f"{rms(painted[name], end):.3f}",
                peaks[side],
            )


def rate(flops: int, seconds: float) -> str:
    """TFLOP/s."""
    return f"{flops / seconds / 1e12:.3g}"


def both(a: Tensor, b: Tensor) -> str:
    """Root mean square over root mean square, and the largest difference over the largest value."""
    return f"{rms(a, b):.1e} / {relative(a, b):.1e}"


def rms(a: Tensor, b: Tensor) -> float:
    """Root mean square of the difference over that of `b`."""
    a, b = a.float().cpu(), b.float().cpu()
    return float((a - b).norm() / b.norm())


def composed(pair: Pair) -> None:
    """Samples composed of measured parts."""
    args, default = pair.args, pair.default_settings()
    one_pass = pair.forward()
    steps, _ = default.walk
    plans = [
        (f"DDIM {args.steps}", args.steps),
        (f"{default.solver} {steps}", load_solver(default.solver).evaluations(steps)),
    ]
    for guidance in args.guidance:
        pair.ours.forget()
        calls: dict[str, Callable[[], object]] = {"reference": pair.forward}
        for precision in args.precision:
            for n in (1, 3):
                calls[f"{precision} {n}"] = partial(pair.ddim, guidance, steps=n, precision=precision)
        seconds = interleaved(calls, args.repeats, warm=args.warm, device=args.device)
        pair.ours.forget()
        passes = args.steps * (2 if guidance > 1 else 1)
        base = [passes * s for s in seconds["reference"]]
        each = statistics.median(seconds["reference"])
        row(
            *(pair.name, f"{guidance:g}"),
            f"reference, fp32, DDIM {args.steps}, composed: {passes} x {each:.3g} s",
            *(f"{statistics.median(base):.1f}", "1.00", rate(args.batch * pair.flops.whole, each)),
            *("-", "-", "-", peak(pair, "reference", guidance)),
        )
        for precision in args.precision:
            pairs = list(zip(seconds[f"{precision} 1"], seconds[f"{precision} 3"], strict=True))
            step = [(three - one) / 2 for one, three in pairs]
            first = [one - s for (one, _), s in zip(pairs, step, strict=True)]
            error = both(pair.ours.forward(pair.noise, pair.at, precision), one_pass)
            held = peak(pair, precision, guidance)
            for what, n in plans:
                total = [f + n * s for f, s in zip(first, step, strict=True)]
                parts = f"{statistics.median(first):.3g} s + {n} x {statistics.median(step):.3g} s"
                row(
                    *(pair.name, f"{guidance:g}", f"ours, {precision}, {what}, composed: {parts}"),
                    *(f"{statistics.median(total):.1f}", f"{speedup(base, total):.2f}"),
                    rate(args.batch * pair.flops.ours(n, guidance), statistics.median(total)),
                    *("-", error, "-", held),
                )


def peak(pair: Pair, side: str, guidance: float) -> str:
    """Peak memory of one side, from a process of its own."""
    args = pair.args
    if args.no_memory:
        return "-"
    words = ["--reference", args.reference, "--config", pair.name, "--guidance", guidance]
    words += ["--device", args.device, "--threads", args.threads, "--batch", args.batch, "--peak-of", side]
    return f"{fresh('sampling', *words)['mib']:.0f}"


def peak_of(reference: Reference, args: argparse.Namespace) -> None:
    """In the fresh process: two steps of one side, and what they took, as JSON."""
    config, device = CONFIGS[args.config[0]], torch.device(args.device)
    cuda, guidance, before = device.type == "cuda", args.guidance[0], peak_mib()
    if args.peak_of == "reference":
        model = reference.unet(config, device)
        noise = torch.randn(args.batch, 3, config.size, config.size, device=device)
        if cuda:
            model.convert_to_fp16()
            model.dtype = torch.float16
            torch.cuda.reset_peak_memory_stats(device)
        y = guide(config).to(device).expand(args.batch, -1, -1, -1)
        reference_sample(model, reference.diffusion(2), noise, y, guidance)
    else:
        ours = Ours(reference, config, None, device)
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        ours.sample(
            args.batch, solver="ddim", steps=2, spacing="leading", guidance=guidance, precision=args.peak_of
        )
    mib = torch.cuda.max_memory_allocated(device) / 2**20 if cuda else peak_mib() - before
    print(json.dumps({"mib": mib}))


def monai_row(pair: Pair) -> None:
    """One forward pass of MONAI's SPADE U-Net at the same widths, against the reference's."""
    try:
        from monai.networks.nets import SPADEDiffusionModelUNet
    except ImportError:
        return
    config, args = pair.config, pair.args
    widths = [int(m * config.channels) for m in config.multipliers]
    model = SPADEDiffusionModelUNet(
        spatial_dims=2,
        in_channels=3,
        out_channels=3,
        label_nc=pair.map.shape[1],
        num_res_blocks=config.blocks,
        channels=widths,
        attention_levels=[2**level in config.strides for level in range(len(widths))],
        num_head_channels=config.head,
        resblock_updown=True,
        spade_intermediate_channels=128,
    ).to(pair.device)
    model.eval()

    @torch.no_grad()
    def forward() -> None:
        with torch.autocast(pair.device.type, torch.float16, enabled=pair.half):
            model(pair.noise, pair.at, pair.map)

    seconds = interleaved(
        {"reference": pair.forward, "MONAI": forward}, max(3, args.repeats), device=args.device
    )
    row(
        *(pair.name, "1", "MONAI, same widths, one forward pass (another network: no errors)"),
        f"{statistics.median(seconds['MONAI']):.3f}",
        f"{speedup(seconds['reference'], seconds['MONAI']):.2f}",
        *("-" for _ in range(5)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, ["S", "M"], repeats=3)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 1.5])
    parser.add_argument("--steps", type=int, default=40, help="of DDIM; as many as the reference's ddimN can")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--end-steps", type=int, default=200, help="of the end point; 0 leaves it out")
    parser.add_argument("--compose", action="store_true", help="compose samples of measured steps")
    parser.add_argument("--warm", type=int, default=1, help="rounds before those that count, with --compose")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    reference = set_up(args)
    if args.peak_of:
        peak_of(reference, args)
        return
    print(f"{machine(args.device)}, batch {args.batch}\n")
    head(*COLUMNS)
    for name in args.config:
        try:
            pair = Pair(reference, name, args)
            (composed if args.compose else whole)(pair)
            monai_row(pair)
        except MsdmError as error:
            raise SystemExit(f"{name}: {error}") from None


if __name__ == "__main__":
    main()
