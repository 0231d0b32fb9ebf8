"""The words of the integrity checks, in English and Chinese: what is wrong, what to do, and what the numbers are."""

from __future__ import annotations

from adaloc.data.finding import Finding
from adaloc.words import Language, Pair, Words, one_line

CAUSES: dict[str, Words] = {
    "inputs_targets_decoupled": Words(
        ("frames and emitters do not belong together: there is no more light at the emitters than chance gives",
         "图像与真值互不对应：发射体位置处的光并不比随机情形更多"),
        ("Check that each emitters.h5 lies beside its own movie, and that the movie is no noise or placeholder.",
         "请检查每个 emitters.h5 是否与其对应的影像放在同一文件夹，并确认影像不是噪声或占位数据。"),
    ),
    "axes_swapped": Words(
        ("x and y of the emitters are swapped: the light lies where they would be with the axes exchanged",
         "发射体的 x 与 y 坐标互换：交换坐标轴之后才与图像中的光点吻合"),
        ("records/xyz holds x (column) first, then y (row). Exchange the columns, or transpose the movie.",
         "records/xyz 的顺序应为 x（列）、y（行）。请交换这两列，或转置影像。"),
    ),
    "mirrored": Words(
        ("the emitters are mirrored: the light lies at their mirror image in the field",
         "发射体坐标为镜像：光点位于视场中的镜像位置"),
        ("y counts down from the first row, x to the right from the first column. Flip the coordinates or the movie.",
         "y 从第一行起向下计数，x 从第一列起向右计数。请翻转坐标或影像。"),
    ),
    "frame_offset": Words(
        ("the emitters belong to other frames: the light lies at the same places some frames earlier or later",
         "发射体的帧号有偏移：光点出现在相同位置，但早或晚若干帧"),
        ("records/frame_ix counts from 0. Add the shift given here to it.",
         "records/frame_ix 应从 0 开始计数。请将其加上此处给出的帧偏移量。"),
    ),
    "pixel_offset": Words(
        ("the light lies at a constant distance from the emitters' coordinates",
         "光点与发射体坐标之间存在固定偏移"),
        ("In emitters.h5 x, y count from the corner of the field (centre of the first pixel: 0.5). Add the offset "
         "given here, unless the PSF itself is off centre.",
         "emitters.h5 中的 x、y 从视场角点开始计数（第一个像素的中心为 0.5）。除非点扩散函数本身偏离中心，"
         "否则请将坐标加上此处给出的偏移量。"),
    ),
    "coordinates_unit": Words(
        ("the emitters' x and y are not in pixels", "发射体的 x、y 坐标单位不是像素"),
        ("records/xyz must hold x, y in px. Convert them, or check simulation.optics.pixel_size_nm.",
         "records/xyz 中的 x、y 须以像素为单位。请换算坐标，或检查 simulation.optics.pixel_size_nm。"),
    ),
    "z_unit": Words(
        ("the emitters' z are not in micrometres: their range is not one that the optics can see",
         "发射体的 z 坐标单位不是微米：其范围超出光学系统所能成像的深度"),
        ("records/xyz holds z in micrometres. Divide nm by 1000; where the depth is right, correct "
         "simulation.emitters.z_min_nm and z_max_nm.",
         "records/xyz 中的 z 须以微米为单位，纳米值请除以 1000；若深度无误，请更正 simulation.emitters.z_min_nm "
         "与 z_max_nm。"),
    ),
    "photons_unit": Words(
        ("the light in the frames does not fit the emitters' photons", "图像中的光强与发射体的光子数不相符"),
        ("records/phot are photons before the quantum efficiency. Check its unit, and gain_e_per_adu, em_gain and "
         "quantum_efficiency in simulation.camera.",
         "records/phot 应为乘以量子效率之前的光子数。请检查其单位，以及 simulation.camera 中的 gain_e_per_adu、"
         "em_gain 和 quantum_efficiency。"),
    ),
    "background_unit": Words(
        ("the stated background does not fit the frames", "所给背景值与图像不相符"),
        ("background/photons is in photons per px. Check its unit, and baseline_adu in simulation.camera.",
         "background/photons 的单位为光子/像素。请检查其单位以及 simulation.camera 中的 baseline_adu。"),
    ),
    "dead_frames": Words(
        ("frames hold nothing, or repeat the frame before them bit by bit", "部分帧没有内容，或与前一帧逐位相同"),
        ("Export the movie again, or remove these frames with their emitters.",
         "请重新导出影像，或删除这些帧及其发射体。"),
    ),
    "saturated_frames": Words(
        ("pixels lie at the camera's full scale: their light was cut off", "部分像素达到相机满量程，光强已被截断"),
        ("Lower gain, exposure or laser power; in simulated data raise gain_e_per_adu.",
         "请降低增益、曝光时间或激光功率；若为模拟数据，请增大 gain_e_per_adu。"),
    ),
    "duplicate_samples": Words(
        ("samples are copies of one another", "部分样本互为副本"),
        ("Delete the copies; there are fewer different data than it seems.",
         "请删除副本；实际的不同数据少于表面数量。"),
    ),
    "validation_leak": Words(
        ("samples are in training and in validation: the validation loss does not show overfitting",
         "同一样本同时出现在训练集与验证集中：验证损失无法反映过拟合"),
        ("Delete the copies.", "请删除重复的样本。"),
    ),
    "wrong_input_scaling": Words(
        ("the frames are not scaled as the network needs them (mean 0, spread 1)",
         "输入图像的缩放不符合网络要求（均值 0，标准差 1）"),
        ("Check baseline_adu and gain_e_per_adu in simulation.camera; measure the scaling on these data.",
         "请检查 simulation.camera 中的 baseline_adu 与 gain_e_per_adu，并在当前数据上重新测定缩放参数。"),
    ),
}  # fmt: skip
"""Every cause that the checks of the data can name."""

_LABELS: dict[str, Pair] = {
    "z_own": ("light at the emitters above chance, in standard deviations", "发射体处的光高出随机情形（标准差倍数）"),
    "z_expected": ("expected", "预期"),
    "z_other": ("with this correction", "更正之后"),
    "z_gain": ("gain of the correction", "更正带来的提升"),
    "z_peak": ("light anywhere near them, likewise", "其附近最强处"),
    "num_frames": ("frames", "帧数"),
    "num_emitters": ("emitters", "发射体数"),
    "alignment": ("fits when", "吻合方式"),
    "frame_shift": ("shift in frames", "帧偏移"),
    "num_samples": ("samples", "样本数"),
    "num_judged": ("of", "已判断样本数"),
    "samples": ("named", "名称"),
    "unit": ("they look like", "疑似单位"),
    "share_outside": ("share outside of the field", "视场外比例"),
    "extent_of_field": ("share of the field that they fill", "占视场比例"),
    "offset_x_px": ("offset in x, px", "x 偏移（像素）"),
    "offset_y_px": ("in y, px", "y 偏移（像素）"),
    "offset_sigma_px": ("+-", "误差（像素）"),
    "num_constant": ("constant", "恒定帧"),
    "num_repeated": ("repeated", "重复帧"),
    "num_not_finite": ("not finite", "含非有限值的帧"),
    "share": ("share of pixels", "像素比例"),
    "full_scale_adu": ("full scale, ADU", "满量程（ADU）"),
    "num_duplicates": ("copies", "副本数"),
    "num_leaked": ("in both", "同时出现"),
    "num_validation": ("of validation samples", "验证样本数"),
    "z_typical_nm": ("90 % of |z| below, nm", "90% 的 |z| 低于（nm）"),
    "z_config_nm": ("config, nm", "配置（nm）"),
    "likely": ("the file's unit looks like", "文件单位疑似"),
    "ratio": ("light per photon (right: 0.6 to 1)", "每光子对应的光强（正常为 0.6 至 1）"),
    "ratio_sigma": ("+-", "误差"),
    "stated_photons": ("stated, photons/px", "所给值（光子/像素）"),
    "measured_photons": ("measured", "实测值"),
    "negative_share": ("share of pixels below zero photons", "光子数为负的像素比例"),
    "baseline_adu": ("baseline in the config, ADU", "配置中的基线（ADU）"),
    "num_windows": ("windows", "窗口数"),
    "num_distinct": ("different ones", "其中不同的窗口"),
    "num_distinct_expected": ("expected", "预期"),
    "num_steps": ("steps", "步数"),
    "input_mean": ("mean", "均值"),
    "input_spread": ("spread", "标准差"),
    "not_finite_share": ("share not finite", "非有限值比例"),
    "largest_offset_px": ("largest offset, px", "最大偏移（像素）"),
    "allowed_px": ("allowed", "允许值"),
    "num_targets": ("targets", "目标数"),
    "channel": ("channel", "通道"),
    "mean_units": ("mean", "均值"),
    "spread_units": ("spread", "标准差"),
}

_VALUES_ZH: dict[str, str] = {
    "x and y swapped": "x、y 互换", "turned by 90 degrees": "旋转 90°", "turned by -90 degrees": "旋转 -90°",
    "x and y swapped and mirrored": "x、y 互换并镜像", "mirrored in x": "x 方向镜像", "mirrored in y": "y 方向镜像",
    "mirrored in x and y": "x、y 方向均镜像", "micrometres": "微米", "nm": "纳米", "mm": "毫米",
    "shares of the field": "视场比例", "unknown": "未知", "moved by -2 frames": "移动 -2 帧",
    "moved by -1 frames": "移动 -1 帧", "moved by +1 frames": "移动 +1 帧", "moved by +2 frames": "移动 +2 帧",
}  # fmt: skip


def describe(finding: Finding, language: Language = "en") -> str:
    """One line: the cause's id, what was found, the numbers, and what to do."""
    at = 0 if language == "en" else 1
    numbers = "; ".join(_evidence(key, value, at) for key, value in finding.evidence.items())
    return one_line(finding.cause, CAUSES[finding.cause], numbers, language)


def _evidence(key: str, value: float | str, at: int) -> str:
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{_LABELS[key][at]} {_VALUES_ZH.get(shown, shown) if at else shown}"
