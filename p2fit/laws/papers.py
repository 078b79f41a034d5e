"""The papers that laws come from, as BibTeX."""

from __future__ import annotations

import re
from dataclasses import dataclass

from p2fit.laws.law import Law

_ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")


@dataclass(frozen=True)
class Paper:
    """What BibTeX needs of a paper that is on arXiv."""

    key: str
    """The entry's name."""
    authors: str
    """As BibTeX has them, joined by ``and``."""
    title: str
    """With braces around what keeps its capitals."""
    year: int
    """Of the publication below, else of the preprint."""
    venue: str = ""
    """The proceedings; empty for a preprint."""

    def bibtex(self, eprint: str) -> str:
        """The entry, given its number on arXiv."""
        fields = {"author": self.authors, "title": self.title, "year": str(self.year)}
        fields |= {"booktitle": self.venue} if self.venue else {}
        fields |= {"eprint": eprint, "archiveprefix": "arXiv"}
        return entry("inproceedings" if self.venue else "misc", self.key, fields)


_ICLR = "International Conference on Learning Representations"
_NEURIPS = "Advances in Neural Information Processing Systems"

#: By their numbers on arXiv, which the descriptions of the laws name.
PAPERS = {
    "2411.10272": Paper(
        "chen2025p2law",
        "Xiaodong Chen and Yuxuan Hu and Xiaokang Zhang and Yanling Wang and Cuiping Li and "
        "Hong Chen and Jing Zhang",
        "{P}$^2$ Law: Scaling Law for Post-Training After Model Pruning",
        2025,
        "Proceedings of the 63rd Annual Meeting of the Association for Computational Linguistics "
        "(Volume 1: Long Papers)",
    ),
    "2203.15556": Paper(
        "hoffmann2022training",
        "Jordan Hoffmann and Sebastian Borgeaud and Arthur Mensch and Elena Buchatskaya and "
        "Trevor Cai and Eliza Rutherford and Diego de Las Casas and Lisa Anne Hendricks and "
        "Johannes Welbl and Aidan Clark and Tom Hennigan and Eric Noland and Katie Millican and "
        "George van den Driessche and Bogdan Damoc and Aurelia Guy and Simon Osindero and "
        "Karen Simonyan and Erich Elsen and Jack W. Rae and Oriol Vinyals and Laurent Sifre",
        "Training Compute-Optimal Large Language Models",
        2022,
    ),
    "2501.12486": Paper(
        "jin2025journey",
        "Tian Jin and Ahmed Imtiaz Humayun and Utku Evci and Suvinay Subramanian and "
        "Amir Yazdanbakhsh and Dan Alistarh and Gintare Karolina Dziugaite",
        "The Journey Matters: Average Parameter Count over Pre-training Unifies Sparse and Dense "
        "Scaling Laws",
        2025,
        _ICLR,
    ),
    "2309.08520": Paper(
        "frantar2024scaling",
        "Elias Frantar and Carlos Riquelme and Neil Houlsby and Dan Alistarh and Utku Evci",
        "Scaling Laws for Sparsely-Connected Foundation Models",
        2024,
        _ICLR,
    ),
    "2001.08361": Paper(
        "kaplan2020scaling",
        "Jared Kaplan and Sam McCandlish and Tom Henighan and Tom B. Brown and Benjamin Chess and "
        "Rewon Child and Scott Gray and Alec Radford and Jeffrey Wu and Dario Amodei",
        "Scaling Laws for Neural Language Models",
        2020,
    ),
    "2608.07222": Paper(
        "videau2026skaling",
        "Mathurin Videau and others",
        "Skaling: {Chinchilla}'s Exponents Meet {Kaplan}'s Coupling",
        2026,
    ),
    "2106.04560": Paper(
        "zhai2022scaling",
        "Xiaohua Zhai and Alexander Kolesnikov and Neil Houlsby and Lucas Beyer",
        "Scaling Vision Transformers",
        2022,
        "IEEE/CVF Conference on Computer Vision and Pattern Recognition",
    ),
    "2209.06640": Paper(
        "alabdulmohsin2022revisiting",
        "Ibrahim Alabdulmohsin and Behnam Neyshabur and Xiaohua Zhai",
        "Revisiting Neural Scaling Laws in Language and Vision",
        2022,
        _NEURIPS,
    ),
    "2210.14891": Paper(
        "caballero2023broken",
        "Ethan Caballero and Kshitij Gupta and Irina Rish and David Krueger",
        "Broken Neural Scaling Laws",
        2023,
        _ICLR,
    ),
    "2411.04330": Paper(
        "kumar2025scaling",
        "Tanishq Kumar and Zachary Ankner and Benjamin F. Spector and Blake Bordelon and "
        "Niklas Muennighoff and Mansheej Paul and Cengiz Pehlevan and Christopher R{\\'e} and "
        "Aditi Raghunathan",
        "Scaling Laws for Precision",
        2025,
        _ICLR,
    ),
    "2305.16264": Paper(
        "muennighoff2023scaling",
        "Niklas Muennighoff and Alexander M. Rush and Boaz Barak and Teven Le Scao and "
        "Aleksandra Piktus and Nouamane Tazi and Sampo Pyysalo and Thomas Wolf and Colin Raffel",
        "Scaling Data-Constrained Language Models",
        2023,
        _NEURIPS,
    ),
    "2408.11029": Paper(
        "tissue2024scaling",
        "Howe Tissue and Venus Wang and Lu Wang",
        "Scaling Law with Learning Rate Annealing",
        2024,
    ),
    "2504.04342": Paper(
        "sengupta2025compression",
        "Ayan Sengupta and Siddhant Chaudhary and Tanmoy Chakraborty",
        "Compression Laws for Large Language Models",
        2025,
    ),
}


def sources(law: Law) -> list[str]:
    """The papers of a law, as BibTeX; none of a formula of one's own."""
    return [PAPERS[number].bibtex(number) for number in _ARXIV.findall(law.description)]


def entry(kind: str, key: str, fields: dict[str, str]) -> str:
    """An entry of BibTeX."""
    width = max(map(len, fields))
    lines = [f"  {name:<{width}} = {{{value}}},\n" for name, value in fields.items()]
    return f"@{kind}{{{key},\n{''.join(lines)}}}\n"


def software(version: str) -> str:
    """p2fit itself, as CITATION.cff has it."""
    fields = {
        "author": "{The p2fit developers}",
        "title": "p2fit: scaling laws of pruned, sparse and dense language models from loss curves",
        "version": version,
        "note": "Apache-2.0",
    }
    return entry("misc", "p2fit", fields)
