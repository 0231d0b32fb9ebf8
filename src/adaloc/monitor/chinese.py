"""The monitor's sentences in Chinese, by their English templates (see say.py). A test guards that none is missing."""

from __future__ import annotations

from adaloc.monitor.chinese_pages import PAGES

_NUMBERS_AND_WORDS = {
    "; ": "；",
    "{head}: {rest}.": "{head}：{rest}。",
    "unknown": "未知",
    "unknown: {why}": "未知：{why}",
    "none": "无",
    "once": "1 次",
    "{n} times": "{n} 次",
    "{n} epoch": "{n} 轮",
    "{n} epochs": "{n} 轮",
    "{n} of {planned}": "{n} / {planned}",
    "{n} of {planned} epochs": "{n} / {planned} 轮",
    "{s:.0f} s": "{s:.0f} 秒",
    "{m} min": "{m} 分钟",
    "{h} h": "{h} 小时",
    "{h} h {m} min": "{h} 小时 {m} 分钟",
    "{d} d {h} h": "{d} 天 {h} 小时",
}

_VERDICT = {
    "The run has started, but no epoch is finished yet.": "训练已开始，但尚未完成任何一轮。",
    "The run has started, but no epoch is finished (it is {status}).":
        "训练已开始，但没有完成任何一轮（状态：{status}）。",
    "finished": "已完成",
    "stopped early": "提前停止",
    "interrupted": "已中断",
    "not finished": "未完成",
    "running": "运行中",
    "After {count}": "{count}之后",
    "{status} after {count}": "{status}（{count}）",
    "the validation loss was never a finite number": "验证损失从未是有限数值",
    "the validation loss is not a finite number since epoch {since} (best before: {best} at epoch {at})":
        "自第 {since} 轮起验证损失不是有限数值（此前最佳：第 {at} 轮的 {best}）",
    "the validation loss is {loss}": "验证损失为 {loss}",
    " (best {best})": "（最佳 {best}）",
    "{loss}, worse than the no-information loss {line}": "{loss}，比无信息损失 {line} 还差",
    "{loss}, at the no-information loss {line}: the network has learned nothing":
        "{loss}，停在无信息损失 {line} 处：网络什么也没有学到",
    "{loss}, and the best model captures {share:.1f} % of the information between the no-information loss {line} and "
    "the physical floor {floor}":
        "{loss}，最佳模型获取了无信息损失 {line} 与物理下限 {floor} 之间 {share:.1f} % 的信息",
    "{loss}, and the best model explains {share:.1f} % of the no-information loss {line}":
        "{loss}，最佳模型解释了无信息损失 {line} 的 {share:.1f} %",
    "the validation loss was not a finite number in {count}": "有 {count}的验证损失不是有限数值",
    "the training loss was not a finite number in {count}": "有 {count}的训练损失不是有限数值",
    "it falls by {slope:.2g} per epoch": "每轮下降 {slope:.2g}",
    "it rises by {slope:.2g} per epoch": "每轮上升 {slope:.2g}",
    "no clear change in the last {window} epochs": "最近 {window} 轮没有明显变化",
    "too early to see a trend": "尚看不出趋势",
    "{kept} of {due} promised levels reached in time": "{due} 个承诺水平中有 {kept} 个按时达到",
}  # fmt: skip

_ADVICE = {
    "diagnosis {cause}": "诊断：{cause}",
    "The loss is not a finite number: check the data with adaloc check for pixels or emitters that are not finite, "
    "then lower training.lr_first, or set precision to float32.":
        "损失不是有限数值：请用 adaloc check 检查数据中是否有非有限的像素或发射体，然后降低 training.lr_first，"
        "或将 precision 设为 float32。",
    "validation loss not finite in {val}, training loss in {train} of {all}":
        "共 {all} 轮中，验证损失非有限 {val}，训练损失非有限 {train}",
    "median validation loss {loss} in the last {window} epochs, no-information loss {line}":
        "最近 {window} 轮验证损失的中位数 {loss}，无信息损失 {line}",
    "The network is worse than one that knows nothing: check the camera settings and the scaling of the validation "
    "data against the training data; then lower training.lr_first.":
        "网络比一无所知还差：请核对验证数据与训练数据的相机设置和缩放，然后降低 training.lr_first。",
    "The network has learned nothing: check that inputs and targets belong together before touching the learning rate.":
        "网络什么也没有学到：在调整学习率之前，请先检查输入与目标是否对应。",
    "Too early to judge; wait.": "为时尚早，请等待。",
    "{count} finished": "已完成 {count}",
    "The network begins to learn the training samples by heart: use more samples (simulation.num_samples); the best "
    "model is kept meanwhile.":
        "网络开始死记训练样本：请使用更多样本（simulation.num_samples）；最佳模型已另行保存。",
    "in the last {window} epochs the validation loss rose by {slope:.2g} per epoch while the training loss fell; best "
    "validation loss {best} after {at} epochs":
        "最近 {window} 轮验证损失每轮上升 {slope:.2g}，而训练损失下降；最佳验证损失 {best}（第 {at} 轮）",
    "The training waits for data: raise data.num_workers, or keep the data on a faster disk.":
        "训练在等待数据：请增大 data.num_workers，或把数据放到更快的磁盘上。",
    "{share:.0f} % of the time of the last {count}": "最近 {count}中 {share:.0f} % 的时间",
    "The learning rate is at its minimum, so that little will change: stop here, or start anew with a larger "
    "training.adaptive_lr_config.plateau_min_lr or plateau_patience.":
        "学习率已到最小值，此后几乎不会再变化：可以就此停止，或增大 training.adaptive_lr_config.plateau_min_lr 或 "
        "plateau_patience 后重新开始。",
    "rate {rate:.2g} for {n} epochs, {decays} decays and {plateaus} plateau reductions":
        "学习率 {rate:.2g} 已持续 {n} 轮，衰减 {decays} 次，平台期降低 {plateaus} 次",
    "The loss stalls at a high learning rate: let the anneal at the end of the run lower it, or shorten "
    "training.epochs so that it begins sooner.":
        "损失在较高学习率下停滞：让训练末尾的退火降低它，或缩短 training.epochs 使退火更早开始。",
    "no new best for {count} at rate {rate:.2g}; change per epoch {slope:.1e} with an error of {error:.1e}":
        "在学习率 {rate:.2g} 下已有 {count}没有新的最佳值；每轮变化 {slope:.1e}，误差 {error:.1e}",
    "it falls by {slope:.2g} per epoch (error {error:.1e}) in the last {window} epochs":
        "最近 {window} 轮每轮下降 {slope:.2g}（误差 {error:.1e}）",
    "The loss still falls: wait.": "损失仍在下降：请等待。",
    "{evidence}; time left: {left}": "{evidence}；剩余时间：{left}",
    "The loss still fell at the end: a longer run (training.epochs) would go lower.":
        "结束时损失仍在下降：延长训练（training.epochs）会更低。",
    "{share:.0f} % of the steps in the last {count}": "最近 {count}中 {share:.0f} % 的步",
    ", median norm {norm:.3g} before clipping": "，裁剪前范数的中位数 {norm:.3g}",
    "Most steps are clipped, so that the clipping sets their length: if the loss does not fall, raise "
    "training.clip_norm or lower training.lr_first.":
        "大多数步都被裁剪，步长由裁剪决定：如果损失不下降，请提高 training.clip_norm 或降低 training.lr_first。",
}  # fmt: skip

_DECISIONS = {
    "search": "搜索",
    "found": "找到",
    "trial": "试验",
    "boost": "提高",
    "revert": "撤回",
    "decay": "衰减",
    "plateau": "平台期降低",
    "rollback": "回滚",
    "warmup done": "预热结束",
    "anneal": "退火",
    "restart": "重启",
    "the search for a learning rate begins again at a lower one": "学习率搜索从更低处重新开始",
    "a learning rate was found by growing it until a step changes the weights by the wanted share":
        "逐步增大学习率，直到一步对权重的改变达到期望的比例，由此找到学习率",
    "some steps at the present rate, then the same steps at a higher one, to compare":
        "先以当前学习率走若干步，再以更高的学习率重走同样的步，加以比较",
    "the higher rate stays": "保留较高的学习率",
    "the higher rate failed: everything goes back, and the rate is lowered": "较高的学习率失败：全部还原，并降低学习率",
    "a lower rate": "降低学习率",
    "back to a copy of the weights from before, at a lower rate": "还原到先前的权重副本，并降低学习率",
    "the rate has grown to its initial value": "学习率已升到初始值",
    "from here on the rate goes down to its minimum": "从此处起学习率降向最小值",
    "the rate starts again high": "学习率重新从高处开始",
    "rate": "学习率",
    "steps": "步数",
    "share of the weights' size that a step changes": "一步改变权重的比例",
    "wanted share": "期望比例",
    "last loss": "最后的损失",
    "lowest level of the loss": "损失的最低水平",
    "level of the loss": "损失水平",
    "level before": "先前水平",
    "level now": "当前水平",
    "noise of a step": "单步噪声",
    "improvement in the window": "窗口内的改善",
    "its lower bound": "其下界",
    "its upper bound": "其上界",
    "improvement that would count": "可算作改善的量",
    "gain of the higher rate": "较高学习率的收益",
    "gain needed to be beyond chance": "超出偶然所需的收益",
    "best loss": "最佳损失",
    "epochs since the best": "距最佳值的轮数",
    "mean of the last losses": "最近损失的均值",
    "variance of the last losses": "最近损失的方差",
}  # fmt: skip

# Reasons as the log has them, with # for each number.
_REASONS = {
    "the final anneal begins": "最终退火开始",
    "the warmup is over": "预热结束",
    "the loss is stalled: a higher rate is tried": "损失停滞：尝试更高的学习率",
    "the loss is stalled, and a higher rate has failed before": "损失停滞，而更高的学习率先前已失败",
    "the higher rate lowered the loss": "较高的学习率降低了损失",
    "the higher rate did not lower the loss": "较高的学习率没有降低损失",
    "the search began at a rate that hurts; it begins again lower": "搜索起点的学习率有害，从更低处重新开始",
    "steps are not what they were at this rate; the search begins again": "步长已与此前不同，重新开始搜索",
    "nothing hurt the loss so far, and the anneal is due": "至今没有损害损失，且该退火了",
    "a rate of # hurt the loss; the run goes on from well below it": "学习率 # 损害了损失；从远低于它处继续",
    "nothing hurt the loss up to #, where steps are too large; on from well below":
        "直到 # 都没有损害损失，但那里的步长过大；从远低于它处继续",
    "nothing hurt the loss up to an absurd rate of #; on from well below":
        "直到荒谬的学习率 # 都没有损害损失；从远低于它处继续",
    "the loss is not a number: back to a copy from before, at a lower rate":
        "损失不是数值：还原到先前副本，并降低学习率",
    "the loss is not a number: back to the start, at a lower rate": "损失不是数值：还原到起点，并降低学习率",
    "the loss jumped and stayed up: back to a copy from before, at a lower rate":
        "损失跃升后居高不下：还原到先前副本，并降低学习率",
    "the loss jumped and stayed up: back to the start, at a lower rate": "损失跃升后居高不下：还原到起点，并降低学习率",
    "the loss rises: back to a copy from before, at a lower rate": "损失上升：还原到先前副本，并降低学习率",
    "the loss rises: back to the start, at a lower rate": "损失上升：还原到起点，并降低学习率",
    "the rate that was found does not lower the loss: back to the start, at a lower rate":
        "找到的学习率不能降低损失：还原到起点，并降低学习率",
    "the loss hardly varies and does not fall: a larger step may leave the plateau":
        "损失几乎不变也不下降：更大的步长也许能离开平台",
    "no new best loss for # epochs: a smaller step": "已 # 轮没有新的最佳损失：减小步长",
    "no clear improvement for over # epochs": "超过 # 轮没有明显改善",
}  # fmt: skip

CHINESE: dict[str, str] = {**_NUMBERS_AND_WORDS, **_VERDICT, **_ADVICE, **_DECISIONS, **_REASONS, **PAGES}
"""English template to Chinese template."""
