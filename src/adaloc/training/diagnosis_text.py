"""The words of the diagnosis, in English and Chinese: what is wrong, what to do, and what the numbers are."""

from __future__ import annotations

from collections.abc import Sequence

from adaloc.training.causes import Finding, is_named
from adaloc.words import Language, Pair, Words

CAUSES: dict[str, Words] = {
    "inputs_targets_decoupled": Words(
        ("Inputs and targets do not belong together: there is no more light at the emitters than elsewhere.",
         "输入与目标互不对应：发射体位置处的光并不比其他位置更强。"),
        ("Check that each emitters.h5 lies beside its own movie and that the movie is no noise; the learning rate "
         "cannot help.",
         "请检查每个 emitters.h5 是否与其对应的影像放在一起，并确认影像不是噪声。调整学习率无济于事。"),
    ),
    "repeated_batch": Words(
        ("The same batches come again and again.", "训练反复使用相同的批次。"),
        ("Check how windows are drawn, and give more samples or longer movies.",
         "请检查窗口的抽取方式，并提供更多样本或更长的影像。"),
    ),
    "wrong_input_scaling": Words(
        ("The network's input is not scaled as it was measured on the training data.",
         "网络输入的缩放与训练数据上测得的不一致。"),
        ("Check simulation.camera (gain, baseline) and that model and data belong together.",
         "请检查 simulation.camera（增益、基线），并确认模型与数据相匹配。"),
    ),
    "axes_swapped": Words(
        ("x and y of the emitters are swapped: the light lies where they would be with the axes exchanged.",
         "发射体的 x 与 y 坐标互换：交换坐标轴后才与光点吻合。"),
        ("records/xyz holds x (column) first, then y (row). Exchange them.",
         "records/xyz 的顺序应为 x（列）、y（行），请交换。"),
    ),
    "absolute_targets": Words(
        ("The x and y targets are positions in the field instead of offsets within the pixel.",
         "x、y 目标是视场中的绝对位置，而不是像素内的偏移量。"),
        ("Subtract the pixel's centre from the positions before training.", "训练前请从位置中减去像素中心坐标。"),
    ),
    "unscaled_targets": Words(
        ("Targets reach the loss in nm or photons instead of units of their spread.",
         "进入损失函数的目标以纳米或光子数为单位，没有按其离散程度归一化。"),
        ("Scale the targets as the model's scaling says.", "请按模型的缩放参数对目标归一化。"),
    ),
    "frozen_parameters": Words(
        ("Weights do not change at all in a step.", "部分权重在一步更新后完全没有变化。"),
        ("Check that all parameters require gradients and are in the optimizer, and that the rate is above 0.",
         "请检查所有参数是否需要梯度、是否已加入优化器，以及学习率是否大于 0。"),
    ),
    "bad_resume": Words(
        ("The run was not continued as it was: the optimizer's moments or the rate are not those of the checkpoint.",
         "续训状态不完整：优化器的动量或学习率与检查点不一致。"),
        ("Resume from the whole checkpoint (--resume auto).", "请从完整的检查点继续训练（--resume auto）。"),
    ),
    "train_eval_mismatch": Words(
        ("The same batch scores differently in training and in evaluation mode.",
         "同一批次在训练模式与评估模式下的损失不同。"),
        ("Check normalization statistics and dropout; larger batches steady the statistics.",
         "请检查归一化统计量和 dropout；增大批次可使统计量更稳定。"),
    ),
    "one_channel_dominates": Words(
        ("One channel makes up nearly all of the loss or of the gradient.", "单个通道几乎占据了全部损失或梯度。"),
        ("Use information units (normalization: information), or lower its channel weight.",
         "请使用信息单位（normalization: information），或降低该通道的权重。"),
    ),
    "collapsed_to_empty": Words(
        ("The network says that there are no emitters at all.", "网络的预测坍缩为“没有任何发射体”。"),
        ("Raise pos_weight towards 1 or more; start anew, as the way back is slow.",
         "请将 pos_weight 提高到 1 或更大，并重新开始训练，因为从该状态恢复很慢。"),
    ),
    "saturated_detection": Words(
        ("The probabilities are sure of themselves and wrong; such a head hardly gets gradients.",
         "检测概率已饱和：网络十分自信却是错的，检测头几乎得不到梯度。"),
        ("Start anew with a warmup and the head's bias at the prior.",
         "请启用预热，将检测头偏置设为先验值后重新训练。"),
    ),
    "precision_underflow": Words(
        ("Gradients are lost in the number format: many are exactly 0, or many steps are skipped.",
         "数值精度不足：大量梯度恰为 0，或许多步因非有限值被跳过。"),
        ("Set precision to float32 (or bfloat16 instead of float16).",
         "请将 precision 设为 float32（或用 bfloat16 代替 float16）。"),
    ),
    "vanishing_gradients": Words(
        ("Some layers get next to no gradient.", "部分网络层几乎得不到梯度（梯度消失）。"),
        ('Use network.normalization "batch" and activations that do not saturate, or a shallower network.',
         '请使用 network.normalization "batch" 和不易饱和的激活函数，或减小网络深度。'),
    ),
    "dead_units": Words(
        ("Over half of the units of a layer never change.", "某一层有一半以上的神经元从不激活。"),
        ("Start anew with a lower rate and a warmup.", "请降低学习率、启用预热后重新训练。"),
    ),
    "clipped_every_step": Words(
        ("Every step is clipped far below the gradient's norm.", "每一步的梯度都被大幅裁剪。"),
        ("Raise training.clip_norm to the usual norm; the trainer does so by itself from 100 times on.",
         "请将 training.clip_norm 提高到梯度的常见范数；当范数超过其 100 倍时，训练程序会自动提高。"),
    ),
    "weight_decay_too_strong": Words(
        ("Weight decay takes off as much as a step adds.", "权重衰减过强：衰减量与每步更新量相当。"),
        ("Lower training.weight_decay by a factor of a hundred or more.",
         "请将 training.weight_decay 至少降低到百分之一。"),
    ),
    "loader_starves": Words(
        ("Training waits for data most of the time.", "训练大部分时间在等待数据。"),
        ("Raise data.num_workers, or keep the data on a faster disk.",
         "请增大 data.num_workers，或将数据放在更快的磁盘上。"),
    ),
    "warmup_missing": Words(
        ("The first steps were far too large and threw the weights about.", "训练初期步长过大，权重被严重扰乱。"),
        ("Set enable_warmup with some warmup_epochs and start anew.",
         "请启用 enable_warmup，设置若干 warmup_epochs 后重新训练。"),
    ),
    "rate_too_high": Words(
        ("The learning rate is too high.", "学习率过高。"),
        ("Lower training.lr_first by a factor of ten, or let adaptive_plateau find the rate.",
         "请将 training.lr_first 降低到十分之一，或使用 adaptive_plateau 自动寻找学习率。"),
    ),
    "rate_too_low": Words(
        ("The learning rate is too low: the weights hardly move.", "学习率过低：权重几乎没有变化。"),
        ("Raise training.lr_first, by the factor that won the trial if one did, or let adaptive_plateau find the rate.",
         "请提高 training.lr_first（若试验中有倍数胜出则按该倍数），或使用 adaptive_plateau 自动寻找学习率。"),
    ),
    "network_too_small": Words(
        ("The network is too small: even a fresh one cannot learn a few windows by heart.",
         "网络过小：即使重新初始化，也无法记住少量窗口。"),
        ("Raise network.base_channels and network.depth.", "请增大 network.base_channels 和 network.depth。"),
    ),
    "overfitting": Words(
        ("The network learns the training windows by heart: validation is worse beyond its noise.",
         "过拟合：验证损失显著高于训练损失，超出噪声范围。"),
        ("Use more samples or augmentation; the best model is kept.", "请增加样本数量或数据增强；最佳模型已保留。"),
    ),
    "physical_limit": Words(
        ("The physical limit is nearly reached: no network can do much better on these data.",
         "已接近物理极限：在这些数据上任何网络都难以明显提高。"),
        ("Stop here. More photons, less background or a better PSF would help, more training will not.",
         "可以停止训练。提高光子数、降低背景或改进点扩散函数才有帮助，继续训练没有意义。"),
    ),
    "batch_noise_floor": Words(
        ("The gradient is nearly all noise: the batch is too small for what is left to learn.",
         "梯度几乎全是噪声：相对于剩余的可学习信息，批次过小。"),
        ("Raise data.batch_size, or let the rate anneal.", "请增大 data.batch_size，或让学习率退火。"),
    ),
    "healthy": Words(
        ("Nothing is wrong that can be seen.", "未发现异常。"),
        ("Wait.", "请继续等待。"),
    ),
    "unknown": Words(
        ("The loss does not fall, and no known cause explains it.", "损失不再下降，但没有已知原因可以解释。"),
        ("Let the anneal finish; then compare with a larger network and more data.",
         "请先让退火完成，然后尝试更大的网络和更多数据。"),
    ),
}  # fmt: skip

_NUMBERS: dict[str, Pair] = {
    "contrast": ("light at the emitters over that elsewhere, in spreads of the frame",
                 "发射体处的光强差（以图像标准差计）"),
    "contrast_sigmas": ("its standard errors above 0", "该差值的显著性（标准误倍数）"),
    "contrast_transposed_sigmas": ("the same with x and y swapped", "交换 x、y 后的显著性"),
    "contrast_emitters": ("emitters looked at", "所用发射体数"),
    "shuffle_gap": ("loss that shuffled inputs cost", "打乱输入后的损失增幅"),
    "shuffle_gap_validation": ("the same on validation data", "验证数据上的同一增幅"),
    "repeated_share": ("share of repeated batches", "重复批次的比例"),
    "input_mean": ("mean of the scaled input (should be 0)", "缩放后输入的均值（应为 0）"),
    "input_std": ("its spread (should be 1)", "缩放后输入的标准差（应为 1）"),
    "target_offset_max": ("largest offset in network units (at most 1.8)", "网络单位下的最大偏移（应不超过 1.8）"),
    "target_photons_rms": ("photons in network units (should be 1)", "网络单位下的光子数（应约为 1）"),
    "target_z_rms": ("z in network units (should be 1)", "网络单位下的 z（应约为 1）"),
    "frozen_share": ("share of tensors without change", "未变化的参数张量比例"),
    "frozen": ("among them", "其中包括"),
    "resumed_at": ("resumed at step", "续训起始步"),
    "moment_steps": ("steps in the optimizer's moments", "优化器动量累计的步数"),
    "rate": ("rate used", "实际学习率"),
    "rate_asked": ("rate asked for", "设定学习率"),
    "train_mode_loss": ("loss in training mode", "训练模式损失"),
    "eval_mode_loss": ("in evaluation mode", "评估模式损失"),
    "settled_difference": ("the same with settled statistics", "统计量稳定之后的同一比值"),
    "mode_difference": ("squared difference of the outputs over their variance", "两种模式输出的均方差与输出方差之比"),
    "loss_share": ("largest share of the loss", "最大的损失占比"),
    "loss_share_channel": ("of channel", "对应通道"),
    "head_share": ("largest share of the head's gradient", "输出层梯度的最大占比"),
    "head_share_channel": ("of channel", "对应通道"),
    "count_ratio": ("summed probability over emitters", "概率总和与发射体数之比"),
    "p_at_emitters": ("probability at emitters", "发射体处的概率"),
    "pull_ratio": ("the loss's pull on the probabilities upwards over downwards", "损失对概率向上与向下的拉力之比"),
    "overconfidence": ("squared error over p (1 - p)", "平方误差与 p(1-p) 之比"),
    "zero_gradient_share": ("share of gradients exactly 0", "恰为 0 的梯度比例"),
    "skipped_share": ("share of skipped steps", "被跳过的步的比例"),
    "gradient_depth_ratio": ("smallest over largest gradient effect of a layer", "各层梯度效应的最小与最大之比"),
    "dead_share": ("dead share of the worst layer", "最差一层的失活比例"),
    "dead_layer": ("layer", "所在层"),
    "clip_excess": ("norm over the clipping limit", "梯度范数与裁剪阈值之比"),
    "clipped_share": ("share of clipped steps", "被裁剪的步的比例"),
    "decay_ratio": ("decay over update", "衰减量与更新量之比"),
    "wait_share": ("share of time waiting", "等待时间占比"),
    "highest_update_ratio": ("largest change of a weight in a step", "单步权重最大相对变化"),
    "update_ratio": ("change of a weight in a step", "单步权重相对变化"),
    "early_burst": ("highest early loss over the first", "初期最高损失与首个损失之比"),
    "first_rate": ("first rate", "初始学习率"),
    "rate_since_highest": ("rate now over then", "当前与彼时学习率之比"),
    "gradient_cosine": ("cosine of successive gradients", "相邻梯度的余弦"),
    "anneal_gain": ("gain of a short anneal", "短退火试验的收益"),
    "boost_gain": ("gain of a boost", "提高学习率试验的收益"),
    "boost_factor": ("by a factor of", "提高倍数"),
    "overfit_ratio": ("loss left after learning a few windows by heart", "记忆少量窗口后的剩余损失比例"),
    "num_parameters": ("parameters", "参数个数"),
    "gap": ("validation over training, relative", "验证相对训练的差距"),
    "gap_low": ("lower end of its 95 % interval", "差距的 95% 置信下限"),
    "gap_before": ("gap in the beginning", "初期差距"),
    "val_loss": ("validation loss", "验证损失"),
    "floor": ("physical floor", "物理下限"),
    "no_information": ("no-information loss", "无信息损失"),
    "noise_over_batch": ("gradient noise scale over the batch", "梯度噪声尺度与批次大小之比"),
    "trend": ("trend", "趋势"),
}  # fmt: skip

_TRENDS: dict[str, str] = {"falling": "下降", "stalled": "停滞", "diverging": "发散", "undecided": "尚不确定"}
_HEADINGS: dict[str, Pair] = {
    "diagnosis": ("Diagnosis after epoch {epoch} (step {step})", "第 {epoch} 轮（第 {step} 步）后的诊断"),
    "remedy": ("What to do: ", "建议："),
    "evidence": ("Evidence: ", "依据："),
    "tried": ("Already done by the run: ", "训练程序已自行采取："),
    "less_likely": ("Less likely: ", "可能性较低："),
    "no_probes": (
        "From the log alone; with the checkpoint and the data, trials on copies would say more.",
        "仅依据日志；若检查点与数据可用，可在副本上做试验以得到更可靠的结论。",
    ),
}
_LEAST_SHOWN = 0.2  # a cause below that is no news


def describe(finding: Finding, language: Language = "en") -> str:
    """What is wrong, the numbers, and what to do, in one line."""
    words, at = CAUSES[finding.cause], _index(language)
    numbers = describe_evidence(finding, language)
    space = " " if language == "en" else ""
    shown = f"{space}({numbers})" if numbers else ""
    return f"{words.what[at]}{shown}{space}{words.remedy[at]}"


def report(
    findings: Sequence[Finding], tried: Sequence[str], epoch: int, step: int, language: Language, *, probed: bool
) -> str:
    """The whole diagnosis as text."""
    at = _index(language)
    lines = [_HEADINGS["diagnosis"][at].format(epoch=epoch, step=step)]
    shown = [finding for finding in findings if is_named(finding)] or list(findings[:1])
    for number, finding in enumerate(shown, start=1):
        words = CAUSES[finding.cause]
        lines.append(f"{number}. [{finding.cause}, {100 * finding.score:.0f} %] {words.what[at]}")
        if numbers := describe_evidence(finding, language):
            lines.append(f"   {_HEADINGS['evidence'][at]}{numbers}")
        lines.append(f"   {_HEADINGS['remedy'][at]}{words.remedy[at]}")
    rest = [f for f in findings if f not in shown and f.score >= _LEAST_SHOWN]
    if rest:
        separator = ", " if language == "en" else "、"
        lines.append(_HEADINGS["less_likely"][at] + separator.join(f"{f.cause} ({f.score:.2f})" for f in rest))
    if tried:
        lines.append(_HEADINGS["tried"][at] + ", ".join(tried))
    if not probed:
        lines.append(_HEADINGS["no_probes"][at])
    return "\n".join(lines)


def describe_evidence(finding: Finding, language: Language = "en") -> str:
    """The numbers of a finding with what they are; a number without words has its name."""
    at, parts = _index(language), []
    for name, value in finding.evidence.items():
        label = describe_number(name, language)
        shown = f"{value:.3g}" if isinstance(value, int | float) else (_TRENDS.get(value, value) if at else value)
        parts.append(f"{label} {shown}")
    return ("; " if at == 0 else "；").join(parts)


def describe_number(name: str, language: Language = "en") -> str:
    """What a number of the evidence is, in words; a number without words has its name."""
    return _NUMBERS.get(name, (name, name))[_index(language)]


def _index(language: Language) -> int:
    return 0 if language == "en" else 1
