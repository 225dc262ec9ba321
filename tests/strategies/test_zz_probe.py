import numpy as np, pytest
from unlearn.strategies.gradient_ascent import *
from unlearn.strategies.stopping import find_targets
from unlearn.model.scoring import score
def test_x(model, forget_set):
    ts = find_targets(model, forget_set, .9, 3).records
    for v, kw in [("simnpo",{}),("simnpo",dict(near_per_forget=0)),("grad-diff",dict(near_per_forget=0)),("grad-diff",{}),("inverted-hinge",{}),("npo",{})]:
        a = GradientAscent(GradientAscentConfig(learning_rate=1e-3, variant=v, **kw)).forget(model, forget_set)
        u = a.apply(model)
        print(v, kw, a.provenance.stop_reason, a.provenance.seconds)
        if kw: continue
        for r, s, t in zip(forget_set.forget, score(u, forget_set.forget), ts): print("  ", r.answer, s.correct, s.exact_memorisation, round(s.nll_per_token,2), t.nll_per_token, t.agreement, s.logprobs)
        print("  retain", np.mean([s.correct for s in score(u, forget_set.retain)]), "nb", np.mean([s.correct for s in score(u, forget_set.neighbors)]))
