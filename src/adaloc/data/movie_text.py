"""The words of the check of a movie, in English and Chinese."""

from __future__ import annotations

import math

from adaloc.data.finding import Finding
from adaloc.data.movie_table import Row
from adaloc.words import Language, Pair, Words, one_line

CAUSES: dict[str, Words] = {
    "eight_bit": Words(
        ("the movie has 8 bit: its numbers were scaled for display, and gain and baseline are lost",
         "影像为 8 位：数值已按显示范围缩放，增益与基线信息已丢失"),
        ("Export the camera's own 16-bit numbers without scaling or compression.",
         "请导出相机原始的 16 位数据，不要缩放或压缩。"),
    ),
    "not_adu": Words(
        ("the movie's numbers are not whole, so they are not the camera's ADU",
         "影像数值不是整数，因此不是相机的原始 ADU"),
        ("Use the raw movie. If it was converted to photons, set gain_e_per_adu to 1, baseline_adu to 0 and "
         "quantum_efficiency to 1; averaged or filtered movies cannot be used.",
         "请使用原始影像。若已换算为光子数，请将 gain_e_per_adu 设为 1、baseline_adu 设为 0、"
         "quantum_efficiency 设为 1；经过平均或滤波的影像无法使用。"),
    ),
    "coarse_steps": Words(
        ("the movie's numbers come in steps: it was stretched after the camera, or its bits were shifted",
         "影像数值呈等间隔跳变：数据在相机之后被拉伸，或经过移位"),
        ("Divide gain_e_per_adu of the camera's data sheet by this step, or export the raw numbers.",
         "请将相机参数表中的 gain_e_per_adu 除以该步长，或导出原始数值。"),
    ),
    "offset_removed": Words(
        ("the movie begins at 0, where this camera never reads: a minimum or background was subtracted",
         "影像最小值为 0，而该相机不会读出这样的数值：影像已被减去最小值或背景"),
        ("Use the raw movie. If there is none, set baseline_adu to the table's baseline from the noise, or to 0; the "
         "background in photons is then not the true one.",
         "请使用原始影像。若无原始影像，请将 baseline_adu 设为表中由噪声得到的基线，或设为 0；"
         "此时背景光子数不再是真实值。"),
    ),
    "saturated": Words(
        ("pixels lie at the camera's full scale: their light was cut off", "部分像素达到相机满量程，光强已被截断"),
        ("Lower the EM gain, the laser power or the exposure; such frames give wrong photons and widths.",
         "请降低 EM 增益、激光功率或曝光时间；这样的图像会给出错误的光子数与光斑宽度。"),
    ),
    "camera_gain": Words(
        ("the noise grows otherwise with the light than the config's gain says", "噪声随光强的变化与配置的增益不符"),
        ("Set gain_e_per_adu in simulation.camera to electrons per ADU (data sheets often give ADU per electron, its "
         "inverse). An EMCCD doubles the variance: there set em_gain instead.",
         "请将 simulation.camera 中的 gain_e_per_adu 设为每 ADU 的电子数（参数表常给出其倒数，即每电子的 ADU）。"
         "EMCCD 会使方差加倍，此时应设置 em_gain。"),
    ),
    "em_gain": Words(
        ("the noise is that of another EM gain", "噪声与配置的 EM 增益不符"),
        ("Set em_gain in simulation.camera to the gain of the recording, 1 for an sCMOS; gain_e_per_adu is that of the "
         "read-out behind the register.",
         "请将 simulation.camera 中的 em_gain 设为采集时的 EM 增益（sCMOS 为 1）；"
         "gain_e_per_adu 为倍增寄存器之后读出电路的增益。"),
    ),
    "camera_baseline": Words(
        ("there is more or less noise than so much light above the config's baseline gives",
         "噪声与配置基线以上的光强不相称"),
        ("Set baseline_adu in simulation.camera to the mean of frames taken in the dark. If it is right, read_noise_e "
         "is not.",
         "请将 simulation.camera 中的 baseline_adu 设为暗场图像的均值。若基线无误，则是 read_noise_e 有误。"),
    ),
    "camera_unclear": Words(
        ("noise and light do not fit the config's camera: its gain, its baseline or its read noise is wrong, and the "
         "movie does not tell which",
         "噪声与光强不符合配置的相机：增益、基线或读出噪声有误，仅凭影像无法判断是哪一个"),
        ("Check gain_e_per_adu (electrons per ADU), em_gain, baseline_adu and read_noise_e in simulation.camera "
         "against the data sheet and a dark frame.",
         "请对照参数表与暗场图像检查 simulation.camera 中的 gain_e_per_adu（每 ADU 的电子数）、em_gain、baseline_adu "
         "与 read_noise_e。"),
    ),
    "camera_noise": Words(
        ("noise and light do not fit this camera: its gain, its baseline or its read noise is wrong",
         "噪声与光强不符合该相机：增益、基线或读出噪声有误"),
        ("Check gain_e_per_adu (electrons per ADU), em_gain, baseline_adu and read_noise_e in simulation.camera.",
         "请检查 simulation.camera 中的 gain_e_per_adu（每 ADU 的电子数）、em_gain、baseline_adu 与 read_noise_e。"),
    ),
    "background": Words(
        ("the background is not one that the config simulates", "背景不在配置的模拟范围内"),
        ("Set mean_photons and std_photons, or range_photons, in simulation.background so that they hold it.",
         "请调整 simulation.background 中的 mean_photons 与 std_photons，或 range_photons，使其包含该背景。"),
    ),
    "density": Words(
        ("the movie has another density of spots", "光斑密度与配置不符"),
        ("Set density_per_um2 in simulation.emitters near it: networks do best at the density that they "
         "were trained with.",
         "请将 simulation.emitters 中的 density_per_um2 设为接近该值：网络在训练时的密度下表现最好。"),
    ),
    "photons": Words(
        ("the spots are brighter or dimmer than the config's (bright ones count most)",
         "光斑亮度与配置不符（以较亮者为主）"),
        ("Multiply photons_mean and photons_std in simulation.emitters by this ratio.",
         "请将 simulation.emitters 中的 photons_mean 与 photons_std 乘以该比值。"),
    ),
    "psf_width": Words(
        ("the spots are wider or narrower in px than the config's PSF; density and photons were not judged",
         "光斑宽度（像素）与配置的点扩散函数不符；未判断密度与光子数"),
        ("Check pixel_size_nm, wavelength_nm and numerical_aperture in simulation.optics and the PSF: camera pixel "
         "over magnification, binning counted.",
         "请检查 simulation.optics 中的 pixel_size_nm、wavelength_nm、numerical_aperture 以及点扩散函数："
         "像素尺寸为相机像素除以放大倍数，并计入合并（binning）。"),
    ),
    "pixel_size": Words(
        ("the movie's metadata say another pixel size", "影像元数据中的像素尺寸与配置不同"),
        ("Set pixel_size_nm in simulation.optics, or check what the metadata were written from.",
         "请设置 simulation.optics 中的 pixel_size_nm，或核实元数据的来源。"),
    ),
    "no_spots": Words(
        ("nothing in the movie looks like spots, and the config expects some", "影像中没有光斑，而配置预期应有"),
        ("Look at the movie: out of focus, dark, or frames from before the blinking began?",
         "请查看影像：是否失焦、过暗，或取自闪烁开始之前？"),
    ),
}  # fmt: skip

_LABELS: dict[str, Pair] = {
    "lowest_adu": ("lowest, ADU", "最小值（ADU）"),
    "highest_adu": ("highest, ADU", "最大值（ADU）"),
    "step_adu": ("step, ADU", "步长（ADU）"),
    "dark_adu": ("0.1 % of the pixels below, ADU", "0.1% 像素低于（ADU）"),
    "share": ("share of pixels", "像素比例"),
    "noise_ratio": ("variance of the background over the config's", "背景方差与配置之比"),
    "slope_ratio": ("growth of the variance with light over the config's", "方差随光强的增长与配置之比"),
    "slope_ratio_sigma": ("+-", "误差"),
    "gain_e_per_adu": ("gain that fits, e/ADU", "相符的增益（e/ADU）"),
    "gain_config_e_per_adu": ("gain in the config", "配置的增益"),
    "em_gain": ("EM gain that fits", "相符的 EM 增益"),
    "em_gain_config": ("in the config", "配置"),
    "read_noise_e": ("read noise that fits, e", "相符的读出噪声（e）"),
    "read_noise_config_e": ("in the config", "配置"),
    "baseline_adu": ("baseline that fits, ADU", "相符的基线（ADU）"),
    "baseline_config_adu": ("baseline in the config", "配置的基线"),
    "background_photons": ("photons/px", "光子/像素"),
    "config_low_photons": ("config from", "配置自"),
    "config_high_photons": ("to", "至"),
    "density_per_um2": ("molecules per um^2 and frame", "每帧每平方微米分子数"),
    "density_config_per_um2": ("config", "配置"),
    "photons_ratio": ("over the config's", "与配置之比"),
    "photons_config": ("photons_mean in the config", "配置的 photons_mean"),
    "width_ratio": ("over the config's", "与配置之比"),
    "pixel_movie_nm": ("movie, nm", "影像（nm）"),
    "pixel_config_nm": ("config, nm", "配置（nm）"),
    "config_per_frame": ("expected in a frame", "每帧预期光斑数"),
}

ROWS: dict[str, Pair] = {
    "gain": ("gain from the noise, e/ADU", "由噪声得到的增益（e/ADU）"),
    "gain_sigma": ("  +-", "  误差"),
    "baseline": ("baseline from the noise, ADU", "由噪声得到的基线（ADU）"),
    "noise": ("variance of the background over the config's", "背景方差与配置之比"),
    "background": ("background, photons/px", "背景（光子/像素）"),
    "density": ("density, molecules per um^2 and frame", "密度（每帧每平方微米分子数）"),
    "spots_found": ("spots that stand out, per frame", "每帧明显光斑数"),
    "spots_found_per_um2": ("  per um^2", "  每平方微米"),
    "photons": ("photons_mean", "photons_mean"),
    "spot_photons": ("photons of a spot that stands out", "明显光斑的光子数"),
    "width": ("width of the spots, px (sigma)", "光斑宽度（像素，sigma）"),
}

HEADER: tuple[Pair, ...] = (("", ""), ("movie", "影像"), ("config", "配置"), ("", ""))
FITS: Pair = ("The movie fits the config.", "影像与配置相符。")
OFF: Pair = ("does not fit", "不符")
WARNING: Pair = ("warning", "警告")


def describe(finding: Finding, language: Language = "en") -> str:
    """One line: the cause's id, what was found, the numbers, and what to do."""
    at = 0 if language == "en" else 1
    numbers = "; ".join(f"{_LABELS[key][at]} {shown(value)}" for key, value in finding.evidence.items())
    return one_line(finding.cause, CAUSES[finding.cause], numbers, language)


def shown(value: float | str) -> str:
    """A number with three digits; a dash where it is not known."""
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table_line(row: Row, language: Language = "en") -> tuple[str, str, str, str]:
    """Label, the movie's number, the config's, and a mark where they do not fit."""
    at = 0 if language == "en" else 1
    config = "" if math.isnan(row.config) else shown(row.config)
    return ROWS[row.name][at], shown(row.movie), config, OFF[at] if row.is_off else ""
