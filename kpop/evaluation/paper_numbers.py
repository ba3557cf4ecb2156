"""The paper's figures (arXiv 2403.12326 v2), on Stable Diffusion 1.4, to stand beside ours.

Where a figure comes from something else than the printed table, `source` says so. Ours are of another model,
another judge and other objects: the order of the rows can be compared, the values cannot.
"""

from __future__ import annotations

from collections.abc import Mapping

Row = Mapping[str, float]

# ESR and PSR in percent, mean of four splits (Table 2).
TABLE_2: Mapping[str, Row] = {
    "base": {"ESR-1": 22.0, "ESR-5": 2.4, "PSR-1": 78.0, "PSR-5": 97.6},
    "CA": {"ESR-1": 98.4, "ESR-5": 96.8, "PSR-1": 44.2, "PSR-5": 66.5},
    "ESD": {"ESR-1": 78.1, "ESR-5": 66.3, "PSR-1": 53.3, "PSR-5": 77.9},
    "UCE": {"ESR-1": 100.0, "ESR-5": 99.99, "PSR-1": 24.4, "PSR-5": 49.5},
    "KPOP": {"ESR-1": 99.4, "ESR-5": 98.1, "PSR-1": 26.0, "PSR-5": 47.3},
    "UCE*": {"ESR-1": 100.0, "ESR-5": 100.0, "PSR-1": 62.1, "PSR-5": 96.0},
    "KPOP*": {"ESR-1": 99.2, "ESR-5": 97.3, "PSR-1": 75.3, "PSR-5": 98.0},
}
TABLE_2_SOURCE = (
    "Paper: base, ESD, UCE and KPOP are the means over four splits of the authors' own evaluation notebook; "
    "the printed table gives ESD an ESR-1 of 95.5, which is split 1 alone, UCE a PSR-1 of 23.4 and KPOP one "
    "of 26.6. CA, UCE* and KPOP* are as printed."
)

# Share of 4,703 pictures with an exposed part above the threshold, percent (Table 3, Fig. 3).
TABLE_3: Mapping[str, Row] = {
    "base": {"0.3": 16.69, "0.5": 10.91, "0.7": 5.46, "0.8": 2.02},
    "CA": {"0.3": 13.84, "0.5": 9.27, "0.7": 4.74, "0.8": 1.68},
    "ESD": {"0.3": 5.32, "0.5": 2.36, "0.7": 0.74, "0.8": 0.23},
    "UCE": {"0.3": 6.87, "0.5": 3.42, "0.7": 0.68, "0.8": 0.21},
    "KPOP": {"0.3": 3.95, "0.5": 1.70, "0.7": 0.40, "0.8": 0.00},
}
TABLE_3_SOURCE = "Paper: nudity exposure rate on 4,703 prompts by NudeNet."

# CLIP score and LPIPS of the artists to erase and to keep, long prompts (Table 4).
TABLE_4: Mapping[str, Row] = {
    "base": {"CLIP erased": 31.46},
    "CA": {"CLIP erased": 27.68, "LPIPS erased": 0.80, "CLIP kept": 30.47, "LPIPS kept": 0.76},
    "ESD": {"CLIP erased": 23.56, "LPIPS erased": 0.72, "CLIP kept": 29.63, "LPIPS kept": 0.49},
    "UCE": {"CLIP erased": 24.13, "LPIPS erased": 0.73, "CLIP kept": 30.96, "LPIPS kept": 0.40},
    "KPOP": {"CLIP erased": 21.24, "LPIPS erased": 0.79, "CLIP kept": 29.57, "LPIPS kept": 0.51},
}
TABLE_4_SOURCE = (
    "Paper: CLIP score (lower is better where erased, higher where kept) and LPIPS (the other way round), "
    "all rows on the long prompts; the printed CA and UCE rows are of the short ones."
)

# Number of blocks of p, and concat against additive (Table 5). NER-0.5 is left out: ours erases objects.
TABLE_5: Mapping[str, Row] = {
    "k = 1": {"ESR-1": 98.6, "PSR-1": 84.8},
    "k = 10": {"ESR-1": 98.8, "PSR-1": 81.7},
    "k = 100": {"ESR-1": 99.7, "PSR-1": 82.7},
    "k = 200": {"ESR-1": 99.6, "PSR-1": 77.2},
}
TABLE_5_SOURCE = (
    "Paper: k is the number of blocks of 77 tokens. Its NER of concat and additive p are not repeated here."
)

# lambda against ESR-5 and PSR-5 (Fig. 5), read off the text: the last ESR-5 is about 40.
FIG_5: Mapping[float, Row] = {
    0.01: {"ESR-5": 96.8, "PSR-5": 97.3},
    1.0: {"ESR-5": 80.6},
    10.0: {"ESR-5": 40.0, "PSR-5": 98.0},
}
