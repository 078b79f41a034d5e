"""The laws that come with p2fit: one entry each, with its source."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from p2fit.errors import LawError
from p2fit.laws.law import COLUMNS, EITHER_SIGN, Law
from p2fit.wording import closest

# ---------------------------------------------------------------- the table of laws


def _law(
    name: str,
    formula: str,
    description: str,
    *,
    columns: Collection[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
) -> Law:
    return Law.parse(
        formula,
        columns=[*COLUMNS, *columns],
        name=name,
        description=description,
        ranges=ranges,
    )


#: The laws that come with p2fit, by name.
LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        _law(
            "p2",
            "base_loss + pruning_rate^-gamma * params^-delta"
            " * (N_C/params^alpha + D_C/tokens^beta + E)",
            "The P² law: loss along post-training after pruning. params is N₀, the size before "
            "pruning; base_loss is L₀, the unpruned model's loss. The published form, "
            "(1/ρ)^γ (1/N₀)^δ (N_C/N₀^α + D_C/D^β + E), is known from digests; the signs of γ "
            "and δ are not, so both take either sign. Source: Chen et al. 2025 (ACL), "
            "arXiv 2411.10272.",
        ),
        _law(
            "p2-no-size",
            "base_loss + pruning_rate^-gamma * (N_C/params^alpha + D_C/tokens^beta + E)",
            "The P² law without its common size factor: for data where δ cannot be told from α. "
            "Source: after Chen et al. 2025, arXiv 2411.10272.",
        ),
        _law(
            "chinchilla",
            "E + A/params^alpha + B/tokens^beta",
            "Loss of a dense model of params parameters trained on tokens tokens. "
            "Source: Hoffmann et al. 2022, approach 3, arXiv 2203.15556.",
        ),
        _law(
            "average-params",
            "E + A/avg_params^alpha + B/tokens^beta",
            "Sparse pre-training, in the average parameter count over the tokens seen; dense "
            "runs are the case of a constant count. Source: Jin et al. 2025 (ICLR), "
            "arXiv 2501.12486.",
        ),
        _law(
            "chinchilla-pruned",
            "E + A/(params*(1 - pruning_rate))^alpha + B/tokens^beta",
            "The Chinchilla law in the parameters that are left after pruning. "
            "Source: after Hoffmann et al. 2022, arXiv 2203.15556.",
        ),
        _law(
            "frantar",
            "(a_S*(1 - pruning_rate)^b_S + c_S)/(params*(1 - pruning_rate))^b_N"
            " + (a_D/tokens)^b_D + c",
            "Sparse training: params is the dense size, pruning_rate the final sparsity. "
            "Source: Frantar et al. 2023, equation 1, arXiv 2309.08520.",
        ),
        _law(
            "kaplan-n",
            "(N_c/params)^alpha_N",
            "Loss at convergence, in the parameter count alone. "
            "Source: Kaplan et al. 2020, equation 1.1, arXiv 2001.08361.",
        ),
        _law(
            "kaplan-d",
            "(D_c/tokens)^alpha_D",
            "Loss of a large model with early stopping, in the tokens alone. "
            "Source: Kaplan et al. 2020, equation 1.2, arXiv 2001.08361.",
        ),
        _law(
            "p2-shifted",
            "base_loss + pruning_rate^-gamma * params^-delta"
            " * (N_C/params^alpha + D_C/(tokens + D_0)^beta + E)",
            "The P² law with its tokens shifted by D_0: finite right after pruning, and bent where "
            "the first tokens help more than a power law says. "
            "Source: after Chen et al. 2025, arXiv 2411.10272.",
            ranges={"gamma": EITHER_SIGN, "delta": EITHER_SIGN},
        ),
        _law(
            "kaplan-joint",
            "((N_c/params)^(alpha_N/alpha_D) + D_c/tokens)^alpha_D",
            "Loss in size and tokens together, without a floor: the scarcer of them sets it. "
            "Source: Kaplan et al. 2020, equation 1.5, arXiv 2001.08361.",
        ),
        _law(
            "skaling",
            "E + (A/params^alpha + B/tokens^beta)^k",
            "The Chinchilla law with a coupling exponent k on the sum of its power terms; k = 1 is "
            "Chinchilla. Source: Videau et al. 2026, arXiv 2608.07222.",
        ),
        _law(
            "shifted",
            "E + A/(params + N_0)^alpha + B/(tokens + D_0)^beta",
            "Power laws that flatten at small scale, where a shift outweighs the count. "
            "Source: after Zhai et al. 2022, who shift compute, arXiv 2106.04560.",
        ),
        _law(
            "bounded-rational",
            "(E + L_0*(A/params^alpha + B/tokens^beta))/(1 + A/params^alpha + B/tokens^beta)",
            "Between a floor E at large scale and a plateau L_0 at small scale. Source: after the "
            "estimator M4 of Alabdulmohsin et al. 2022, arXiv 2209.06640, in one input and with "
            "its shape exponent at 1, where it can be solved for the loss.",
        ),
        _law(
            "broken",
            "E + A*tokens^-c_0*(1 + (tokens/d_1)^(1/f_1))^(-c_1*f_1)",
            "A power law of tokens that bends into another at d_1 tokens, over a width f_1. "
            "Source: Caballero et al. 2023, one break, arXiv 2210.14891.",
            ranges={"f_1": (0.02, 2.0), "c_0": (-5.0, 5.0), "c_1": (-5.0, 5.0)},
        ),
        _law(
            "precision",
            "E + A/(params*(1 - exp(-precision/gamma)))^alpha + B/tokens^beta",
            "Training with weights of precision bits: fewer bits are fewer effective parameters. "
            "Source: Kumar et al. 2024, arXiv 2411.04330.",
            columns=["precision"],
            ranges={"gamma": (0.05, 50.0)},
        ),
        _law(
            "post-quantised",
            "E + A/params^alpha + B/tokens^beta"
            " + C_T*tokens^gamma_D/params^gamma_N*exp(-precision/gamma)",
            "Quantisation to precision bits after training: it costs more the longer the model "
            "was trained. Source: Kumar et al. 2024, arXiv 2411.04330.",
            columns=["precision"],
            ranges={"gamma": (0.05, 50.0)},
        ),
        _law(
            "data-constrained",
            "E + A/params^alpha + B/(unique_tokens*(1 + R_D*"
            "(1 - exp(-(tokens/unique_tokens - 1)/R_D))))^beta",
            "Tokens seen again are worth less: after about R_D repetitions, nothing. The size is "
            "taken as it is (the paper discounts large ones too). "
            "Source: Muennighoff et al. 2023, arXiv 2305.16264.",
            columns=["unique_tokens"],
            ranges={"R_D": (0.1, 1e4)},
        ),
        _law(
            "annealing",
            "L_0 + A/lr_area^alpha - C*lr_annealing",
            "Loss along a run in the area under its learning rate and in how much of it was "
            "annealed (p2fit.schedules.annealing): the points of decayed and undecayed schedules "
            "lie on one surface. Source: Tissue et al. 2024, arXiv 2408.11029.",
            columns=["lr_area", "lr_annealing"],
        ),
        _law(
            "sengupta",
            "base_loss^alpha*(1 + pruning_rate)^beta*(1 + 1/(tokens/1e9 + 1))^gamma",
            "Compression and recovery as factors; tokens are counted in billions here (the unit of "
            "the source is not known). Source: Sengupta et al. 2025, arXiv 2504.04342.",
        ),
    )
}


def get_law(law: str | Law, columns: Collection[str] = COLUMNS) -> Law:
    """A law by name, or a user's own from its formula.

    Raises:
        LawError: neither a known name nor a formula.
    """
    if isinstance(law, Law):
        return law
    if not isinstance(law, str):
        raise LawError(f"{law!r} is no law: give a name, a formula as text, or a Law")
    if law in LAWS:
        return LAWS[law]
    if law.replace("-", "").replace("_", "").isalnum():
        close = closest(law.replace("_", "-"), LAWS)
        raise LawError(
            f"no law is called {law}: did you mean {close}?"
            if close
            else f"no law is called {law}; there are {', '.join(LAWS)}, or give a formula"
        )
    return Law.parse(law, columns=[*COLUMNS, *columns])
