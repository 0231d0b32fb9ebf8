"""The table and the picture of benchmarks/against_fit.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def markdown(results: dict[str, Any]) -> str:
    """The table of docs/against_fit.md."""
    lines = [
        "| density /um^2 | method | Jaccard | RMSE lateral, axial nm | within 400 nm of focus: recall, RMSE "
        "| efficiency 3D | frames/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for movie in sorted(results["movies"].values(), key=lambda movie: movie["density_per_um2"]):
        for name, row in movie["methods"].items():
            inner = row["within_400_nm"]
            numbers = [row["rmse_lateral_nm"], row["rmse_axial_nm"], inner["rmse_lateral_nm"], inner["rmse_axial_nm"]]
            lateral, axial, inner_lateral, inner_axial = ("-" if v is None else f"{v:.1f}" for v in numbers)
            efficiency = "-" if row["efficiency_3d"] is None else f"{row['efficiency_3d']:.1f}"
            lines.append(
                f"| {movie['density_per_um2']:g} | {name} | {row['jaccard']:.3f} | {lateral}, {axial} | "
                f"{inner['recall']:.3f}, {inner_lateral}, {inner_axial} | {efficiency} | {row['frames_per_s']:.0f} |"
            )
    return "\n".join(lines)


def plot(results: dict[str, Any], path: Path) -> None:
    """Four figures of accuracy and the speed, against density."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    movies = sorted(results["movies"].values(), key=lambda movie: movie["density_per_um2"])
    density = [movie["density_per_um2"] for movie in movies]
    panels = {
        "jaccard": "Jaccard index", "rmse_lateral_nm": "lateral RMSE (nm)", "rmse_axial_nm": "axial RMSE (nm)",
        "efficiency_3d": "3D efficiency (%)", "frames_per_s": "frames/s, one thread",
    }  # fmt: skip
    looks = {
        "adaloc": ("adaloc", "tab:blue", "o-"), "known_psf": ("fit, PSF known", "tab:green", "^--"),
        "picasso_spline": ("Picasso, spline", "tab:orange", "s-"),
        "picasso_widths": ("Picasso, widths", "tab:red", "d-"),
    }  # fmt: skip
    # Picasso sets a style of its own.
    with plt.style.context("default"):
        figure, axes = plt.subplots(1, len(panels), figsize=(13, 3.2), layout="constrained")
        for axis, (key, title) in zip(axes, panels.items(), strict=True):
            for name, (label, colour, style) in looks.items():
                values = [movie["methods"][name][key] for movie in movies]
                axis.plot(density, values, style, color=colour, label=label, markersize=4)
            axis.set(xscale="log", xlabel="emitters per µm² and frame", title=title)
            axis.set_xticks(density, [f"{d:g}" for d in density])
            axis.minorticks_off()
            if key == "frames_per_s":
                axis.set_yscale("log")
            elif key != "efficiency_3d":
                axis.set_ylim(0, None)
        axes[0].legend(frameon=False, fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
        plt.close(figure)
