"""The GPT of `examples/gpt.py`, taught Milton by low-rank adapters.

    python -m examples.gpt       # first: it writes runs/gpt
    python -m examples.gpt_lora

It takes the last checkpoint of `runs/gpt` and adapts it to the first six books of Paradise Lost. `train.lora` makes a
state whose parameters are pairs of thin matrices beside the kernels that a pattern names (Hu and others 2021,
https://arxiv.org/abs/2106.09685); the model below stays as it is, and optimiser and checkpoint are of the adapters'
size. In the end the two are one tree of parameters again, of the model that knows nothing of adapters.

Measured on 2 CPU cores (101 s of CPU time): 73,728 parameters, 9% of the model's, bring the loss for a character of
verse that was held out from 2.077 to 1.815 in 150 steps. A sample:

    Satan the parts;
    And the Deav'd first Gent awavel, and find the Parracty seant,
    And evere Love the brear new the Heavens had
"""

import lzma

import jax
import optax

from batiste import checkpoint, train, tree
from examples import gpt

TEXT = lzma.decompress((gpt.DATA / "milton.txt.xz").read_bytes()).decode()
KERNELS = {"**/attention/{query,key,value}/kernel": 1, "**/attention/out/kernel": 2, "**/{up,down}/kernel": 1}


def main(steps=150, batch=16, run="runs/gpt"):
    tokens, held_out = gpt.split(TEXT)
    base = checkpoint.Manager(run).restore(gpt.new_state(steps))
    step = train.make_step(gpt.loss_fn)
    before = train.evaluate(base, held_out, step, batch_size=64)["loss"]

    rate = optax.cosine_decay_schedule(5e-3, steps)
    state = train.lora(base, jax.random.key(1), list(KERNELS), rank=8, inputs=KERNELS, tx=optax.adam(rate))
    share = tree.count(state.params) / tree.count(base.params)
    print(f"{tree.count(state.params):,} parameters are trained, {share:.0%} of the model's; loss before: {before:.3f}")
    state = train.fit(step, state, gpt.windows_of(tokens, batch), steps=steps, log_every=50, log=train.show)
    after = train.evaluate(state, held_out, step, batch_size=64)["loss"]
    print(f"loss of verse that it has not seen: {after:.3f} for a character")
    print(gpt.sample(train.lora_merged(state), prompt="Satan "))
    return before, after


if __name__ == "__main__":
    main()
