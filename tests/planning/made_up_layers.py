"""Four layers with made-up costs and damages."""

from sepify.planning.candidates import Candidate, Layer
from sepify.plans.costs import Cost
from sepify.plans.forms import Keep, Separate


def layer(name: str, ranks: int = 4) -> Layer:
    separated = [
        Candidate(Separate("dw-pw", rank), Cost(10 * rank, 0), 1 / rank) for rank in range(1, ranks)
    ]
    other = Candidate(Separate("pw-dw", 1), Cost(10, 0), 2.0)
    return Layer((name,), (), (Candidate(Keep(), Cost(100, 0), 0.0), other, *separated))


LAYERS = [layer("stem"), layer("a"), layer("b"), layer("c", ranks=2)]
COSTS = [[float(c.cost.macs or 0) for c in each.candidates] for each in LAYERS]


def ranks(picks) -> list[int | None]:
    forms = [layer.candidates[pick].form for layer, pick in zip(LAYERS, picks, strict=True)]
    return [form.rank if isinstance(form, Separate) else None for form in forms]
