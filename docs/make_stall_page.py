"""Writes docs/loss_does_not_fall.md and its Chinese version: python docs/make_stall_page.py.

What is wrong, the evidence and the remedy of each cause come from the diagnosis itself; how it looks is told here.
"""

from __future__ import annotations

from pathlib import Path

from adaloc.training.causes import COLLAPSE, GRADIENTS, INTEGRITY, LIMITS, MACHINERY, OPTIMIZATION, RULES
from adaloc.training.diagnosis_text import CAUSES, describe_number
from adaloc.words import Language, Pair

FOLDER = Path(__file__).parent
NAMES: dict[Language, str] = {"en": "loss_does_not_fall.md", "zh": "loss_does_not_fall.zh-CN.md"}

STAGES: dict[int, Pair] = {
    INTEGRITY: ("The data", "数据"),
    MACHINERY: ("The machinery", "训练机制"),
    COLLAPSE: ("Collapse and scale", "坍缩与尺度"),
    GRADIENTS: ("Gradients", "梯度"),
    OPTIMIZATION: ("Optimization", "优化"),
    LIMITS: ("Limits", "极限"),
}

SIGNATURES: dict[str, Pair] = {
    "unscaled_targets": (
        "The first loss is enormous (thousands) and falls slowly; photons or z make up all of it. Targets in "
        "network units have a spread of 1; named from 10 on.",
        "初始损失极大（数千），下降缓慢，几乎全部来自光子数或 z。网络单位下目标的标准差应为 1，达到 10 即被点名。",
    ),
    "absolute_targets": (
        "x and y hardly improve and dominate the loss. An offset within a pixel is at most 1.8 network units; "
        "named from 4 on.",
        "x、y 几乎没有改善，并主导损失。像素内的偏移在网络单位下最多为 1.8，达到 4 即被点名。",
    ),
    "repeated_batch": (
        "Training loss falls quickly, validation does not. More than half of the steps see a batch of the last "
        "hundred.",
        "训练损失下降很快，验证损失不动。超过一半的步用到了最近一百步内出现过的批次。",
    ),
    "wrong_input_scaling": (
        "Slow start, or a trained model that finds nothing in new data. The scaled input is off by 3 of its "
        "spreads, or four times as wide or as narrow.",
        "起步很慢，或训练好的模型在新数据上什么也找不到。缩放后的输入偏离 3 个标准差，或宽窄相差四倍。",
    ),
    "axes_swapped": (
        "The loss stays at the no-information line. There is light at the emitters' places with x and y "
        "exchanged, and none at the places themselves.",
        "损失停在无信息线上。交换 x、y 后的位置上有光，原位置上没有。",
    ),
    "inputs_targets_decoupled": (
        "The loss sits at the no-information line (5.5 with the default weights) from the first epoch, and "
        "shuffling the inputs within a batch costs nothing.",
        "损失从第一轮起就停在无信息线（默认权重下为 5.5），在批次内打乱输入也不会变差。",
    ),
    "frozen_parameters": (
        "The loss is flat, or falls to a level and stays. Some tensors are bit for bit the same after a step.",
        "损失不变，或降到某一水平后停住。一步之后，某些张量逐位相同。",
    ),
    "bad_resume": (
        "The curve jumps where the run went on. Moments have seen fewer steps than the run, or the rate is not "
        "the controller's.",
        "曲线在续训处跳变。优化器动量经历的步数少于训练步数，或学习率不是控制器给出的值。",
    ),
    "train_eval_mismatch": (
        "Training loss falls, validation is far above it from the start. The same batch scores over half as much "
        "again in the other mode, or its outputs differ by over half of their variance.",
        "训练损失下降，而验证损失从一开始就高得多。同一批次在两种模式下的损失相差一半以上，或输出的均方差超过其方差的一半。",
    ),
    "one_channel_dominates": (
        "The total follows one channel and the others stand still: its share of the loss is above 0.9, or its share "
        "of the last layer's gradient is, and it holds most of the loss.",
        "总损失跟着一个通道走，其他通道不动：该通道占损失的比例超过 0.9，或占末层梯度的比例超过 0.9 且占损失的大半。",
    ),
    "collapsed_to_empty": (
        "Recall is 0 and nothing is localized. The probabilities sum to less than a third of the number of emitters, "
        "and the loss pulls them up at emitters at most three times as strongly as down elsewhere.",
        "召回率为 0，没有任何定位。概率之和不到发射体数的三分之一，且损失在发射体处向上的拉力不到别处向下拉力的三倍。",
    ),
    "saturated_detection": (
        "The probability channel is far above its no-information loss. Its squared error is more than ten times p "
        "(1 - p).",
        "概率通道的损失远高于其无信息损失。其平方误差超过 p(1-p) 的十倍。",
    ),
    "precision_underflow": (
        "Flat or erratic loss in a reduced number format. A third of the gradients are exactly 0, or a fifth of "
        "the steps are skipped.",
        "在低精度格式下损失不动或跳动。三分之一的梯度恰为 0，或五分之一的步被跳过。",
    ),
    "vanishing_gradients": (
        "Very slow fall in a deep network without normalization. Five decades lie between the gradients' effects "
        "of the layers.",
        "没有归一化的深层网络中损失下降极慢。各层梯度效应相差五个数量级。",
    ),
    "dead_units": (
        "The loss stops early at a high level, often after one large step. Over half of a layer never changes.",
        "损失很早停在高处，常发生在一次过大的更新之后。某一层超过一半的神经元从不激活。",
    ),
    "clipped_every_step": (
        "A straight, slow fall. More than half of the steps are clipped, and the usual norm is a hundred times "
        "the limit.",
        "损失缓慢而笔直地下降。超过一半的步被裁剪，通常的范数是阈值的一百倍。",
    ),
    "weight_decay_too_strong": (
        "The loss rises back towards the no-information line, and the weights shrink. The decay is half of the "
        "update or more.",
        "损失回升到无信息线附近，权重缩小。衰减达到更新量的一半以上。",
    ),
    "loader_starves": (
        "The loss falls per step, but hours pass: more than half of the time is spent waiting for data.",
        "按步数看损失在下降，但很费时间：一半以上的时间在等待数据。",
    ),
    "warmup_missing": (
        "A burst of the loss in the first steps at full rate, and slow recovery at a rate that has come down since.",
        "以全速学习率起步时损失猛增，之后学习率降低，恢复缓慢。",
    ),
    "rate_too_high": (
        "The loss jumps about. In a short anneal on a copy it falls by a fifth at once, or steps change a tenth "
        "of the weights.",
        "损失上下跳动。在副本上做一次短退火，损失立刻下降五分之一；或单步改变权重的十分之一。",
    ),
    "rate_too_low": (
        "A smooth, nearly level curve. The largest step changes weights by less than 2e-4 of their size, and a "
        "higher rate wins the trial, or all steps together changed them by less than a hundredth.",
        "曲线平滑而几乎水平。最大的一步只改变权重的 2e-4，且试验中更高的学习率胜出，或所有步合计改变不到百分之一。",
    ),
    "network_too_small": (
        "The loss stops well above the floor, training and validation alike. Sixty steps on some sixty emitters "
        "leave a fresh network more than half of it.",
        "训练与验证损失都停在物理下限之上很远。新网络在约六十个发射体上训练六十步后仍剩余一半以上。",
    ),
    "overfitting": (
        "Training falls and validation rises. The 95 % interval of the gap lies above 0 and the gap is a fifth of "
        "the loss.",
        "训练损失下降而验证损失上升。差距的 95% 区间在 0 以上，差距达到损失的五分之一。",
    ),
    "physical_limit": (
        "The loss is level within a tenth of the way from the floor: captured information above 90 %. That is success.",
        "损失走平，距物理下限不到全程的十分之一：捕获的信息超过 90%。这就是成功。",
    ),
    "batch_noise_floor": (
        "Level and noisy at a rate that was never annealed. The gradient's noise scale is over three "
        "batches, after 300 steps or more.",
        "学习率从未退火，损失走平且噪声大。300 步以后，梯度噪声尺度超过批次大小的三倍。",
    ),
}

_INTRO: dict[Language, str] = {
    "en": """# My loss does not fall

Written by `python docs/make_stall_page.py`; what is wrong, the evidence and the remedies are the diagnosis's own words.

Ask first:

    adaloc diagnose outputs/training_results_adaptive

It reads the log of a run, running or ended, and names causes with their numbers. Then look up the name below.

## Where does the loss stand?

| where | what it means | look at |
|---|---|---|
| at the no-information line (5.5) | nothing was learned; no learning rate cures this | the data, the machinery |
| above it, or no number | steps or targets are out of scale | collapse and scale, optimization |
| between them, level | the rate, the network, the batch | gradients, optimization, limits |
| training falls alone | learned by heart, or mode | `repeated_batch`, `train_eval_mismatch`, `overfitting` |
| near the floor | physics allows no more | `physical_limit` |
| falling, slowly | wait: every run ends with an anneal that takes off the last part | [the strategy](strategy.md) |

Two real runs taught this order. One sat at 4.25 for 1,000 epochs: its inputs and targets were noise, used because
the data folder was not found. The other fell from 52,114 to 36,452: photons were not scaled and x and y were
absolute. No learning rate cures either.

How often the names are right is in [the diagnosis](diagnosis.md). With `--lang zh` the answer is in Chinese.
""",
    "zh": """# 损失不下降

本页由 `python docs/make_stall_page.py` 生成；问题、依据和对策取自诊断程序本身的文字。

先问：

    adaloc diagnose outputs/training_results_adaptive --lang zh

它读取训练日志（正在运行或已结束都可以），说出原因和数字。然后在下面查找该名称。

## 损失停在哪里？

| 位置 | 含义 | 请看 |
|---|---|---|
| 在无信息线上（默认 5.5） | 什么也没学到；任何学习率都治不好 | “数据”、“训练机制” |
| 高于它，或不是数 | 步长或目标的尺度不对 | “坍缩与尺度”、“优化” |
| 在两条线之间走平 | 学习率、网络或批次 | “梯度”、“优化”、“极限” |
| 训练下降而验证不降 | 窗口重复，或死记硬背 | `repeated_batch`、`train_eval_mismatch`、`overfitting` |
| 接近物理下限 | 物理只允许这么多 | `physical_limit` |
| 在缓慢下降 | 请等待：每次训练最后都有退火，会再降一段 | [策略](strategy.md) |

这个顺序来自两次真实的训练。一次在 4.25 停了 1,000 轮：因为找不到数据文件夹，输入和目标都是噪声。另一次从 52,114
降到 36,452：光子数没有归一化，x、y 用了绝对位置。这两种情况，调学习率都没有用。

各名称有多可靠，见[诊断](diagnosis.md)。
""",
}
_LABELS: dict[Language, tuple[str, str, str, str]] = {
    "en": ("What is wrong", "How it looks", "Evidence", "What to do"),
    "zh": ("问题", "表现", "依据", "对策"),
}
_UNNAMED: Pair = ("## Healthy and unknown", "## 正常与未知")


def page(language: Language) -> str:
    """The whole page in Markdown."""
    at = 0 if language == "en" else 1
    what, look, numbers, remedy = _LABELS[language]
    colon, separator = (": ", "; ") if language == "en" else ("：", "；")
    lines = [_INTRO[language]]
    for stage, titles in STAGES.items():
        lines.append(f"## {titles[at]}\n")
        for rule in (rule for rule in RULES if rule.stage == stage):
            words = CAUSES[rule.cause]
            evidence = separator.join(describe_number(name, language) for name in rule.shown)
            lines += [
                f"### `{rule.cause}`\n",
                f"- **{what}**{colon}{words.what[at]}",
                f"- **{look}**{colon}{SIGNATURES[rule.cause][at]}",
                f"- **{numbers}**{colon}{evidence}",
                f"- **{remedy}**{colon}{words.remedy[at]}\n",
            ]
    lines.append(f"{_UNNAMED[at]}\n")
    for cause in ("healthy", "unknown"):
        words = CAUSES[cause]
        space = " " if language == "en" else ""
        lines.append(f"- `{cause}`{colon}{words.what[at]}{space}{words.remedy[at]}")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    for known, name in NAMES.items():
        (FOLDER / name).write_text(page(known), encoding="utf-8")
        print(f"written: {FOLDER / name}")
