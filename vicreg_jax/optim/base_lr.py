"""Base learning rates that authors give: for a batch of 256, before the scaling with the batch."""


def vicreg_base_lr(batch_size: int, epochs: int = 100) -> float:
    """Return the base learning rate (for a batch of 256, before scaling) that VICReg's authors found best.

    From 1000 epochs on, the main recipe's 0.2 (used at a batch of 2048). Below, what a grid search gave at
    100 epochs: 0.8, 0.5 and 0.4 at a batch of 128, 256 and 512, 0.3 at the others. All with LARS on ImageNet.

    Source: Bardes et al. 2022 (arXiv 2105.04906), section 4.2 and appendix C.4.

    >>> vicreg_base_lr(256), vicreg_base_lr(2048), vicreg_base_lr(2048, epochs=1000)
    (0.5, 0.3, 0.2)
    """
    if epochs >= 1000:
        return 0.2
    return {128: 0.8, 256: 0.5, 512: 0.4}.get(batch_size, 0.3)


def barlow_twins_base_lr(batch_size: int) -> float:
    """Return the base learning rate that Barlow Twins' authors found best, with LARS for 300 epochs of ImageNet.

    Read as before scaling: the thread gives 0.4 at 256 and 0.2 at 2048 (barlowtwins#9, which also keeps the
    latter for 1000 epochs) as values of `--learning-rate`, which the code multiplies by batch / 256.

    Raises:
      ValueError: a batch that is not in the authors' table.

    Source: facebookresearch/barlowtwins, issues 7 and 9.

    >>> barlow_twins_base_lr(128), barlow_twins_base_lr(2048)
    (0.7, 0.2)
    """
    return _look_up("batch_size", batch_size, {128: 0.7, 256: 0.4, 512: 0.3, 1024: 0.25, 2048: 0.2, 4096: 0.2})


def simclr_base_lr(batch_size: int) -> float:
    """Return the base learning rate whose peak, scaled with the batch, is SimCLR's 0.075 sqrt(batch).

    Its linear rule is a base of 0.3; the two are equal at a batch of 4096.

    Source: Chen et al. 2020 (arXiv 2002.05709), appendix B.1; google-research/simclr
    `--learning_rate=0.075 --learning_rate_scaling=sqrt`.

    >>> round(simclr_base_lr(4096), 6), round(simclr_base_lr(256), 6)
    (0.3, 1.2)
    """
    return 0.075 * 256 / batch_size**0.5


def byol_base_lr(epochs: int) -> float:
    """Return the base learning rate of BYOL for a run of that length, with LARS at a batch of 4096 of ImageNet.

    Raises:
      ValueError: a length without a preset.

    Source: deepmind-research `byol/configs/byol.py`.

    >>> byol_base_lr(100), byol_base_lr(300), byol_base_lr(1000)
    (0.45, 0.3, 0.2)
    """
    return _look_up("epochs", epochs, {40: 0.45, 100: 0.45, 300: 0.3, 1000: 0.2})


def _look_up(name: str, value: int, table: dict[int, float]) -> float:
    if value not in table:
        raise ValueError(f"{name} is {value}; taken are {', '.join(map(str, table))}")
    return table[value]
