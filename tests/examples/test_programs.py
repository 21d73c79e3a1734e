"""Each program of `examples/` runs for a few steps, and its head says what was measured.

The programs themselves are run at full length by hand; here they are cut short, and what is held is that they compute
what they say: that a sample has the length that was asked for, that adapters leave the model below them alone.
"""

import ast
import functools
import gzip
import io
import re
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import TrainState, checkpoint, train
from examples import actor_critic, adversarial, diffusion, gan, gpt, gpt_lora, lstm, minilm_lora, resnet, vae

pytestmark = pytest.mark.usefixtures("users_rules")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="module")
def compiled_quickly():
    """Compile without most optimisations: a few steps of many programs take longer to compile than to run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


PROGRAMS = (actor_critic, adversarial, diffusion, gan, gpt, gpt_lora, lstm, minilm_lora, resnet, vae)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__.rpartition(".")[2])
def test_the_head_says_what_it_does_how_to_run_it_and_what_came_out(program):
    text = ast.get_docstring(ast.parse(Path(program.__file__).read_text(encoding="utf-8")))
    assert f"python -m {program.__name__}" in text
    measured = re.search(r"^Measured on 2 CPU cores \(.*? of CPU time\): .*\d", text, re.MULTILINE | re.DOTALL)
    assert measured is not None


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__.rpartition(".")[2])
def test_the_page_lists_it_with_its_lines(program):
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    name = program.__name__.rpartition(".")[2]
    lines = len(Path(program.__file__).read_text(encoding="utf-8").splitlines())
    rows = [row for row in page.splitlines() if row.startswith(f"| `{name}.py` |")]
    assert [row.rsplit("|", 2)[1].strip() for row in rows] == [str(lines)]


def test_gpt_and_its_adapters(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpt, "CONTEXT", 16)
    monkeypatch.setattr(gpt, "split", lambda text: short(text, gpt.encode))
    monkeypatch.setattr(gpt, "GPT", functools.partial(gpt.GPT, width=16, depth=1))
    run = tmp_path / "gpt"
    loss = gpt.main(steps=2, batch=2, run=run)
    assert loss == pytest.approx(np.log(len(gpt.CHARACTERS)), rel=0.2)
    written = capsys.readouterr().out
    assert len(written[written.index("HAMLET.\n") :]) == len("HAMLET.\n") + 300 + 1
    base = checkpoint.Manager(run).restore(gpt.new_state(2))
    before, after = gpt_lora.main(steps=2, batch=2, run=run)
    assert before != after
    assert f"loss before: {before:.3f}" in capsys.readouterr().out
    assert checkpoint.Manager(run).restore(base).params["head"]["bias"].shape == (len(gpt.CHARACTERS),)


def short(text, encode):
    tokens = encode(text[:2000])
    return tokens, tokens[: 4 * 16].reshape(4, 16)


def test_vae_has_a_page_with_pictures(tmp_path, capsys):
    found = vae.main(steps=2, batch=32, run=tmp_path / "vae")
    assert found["loss"] == pytest.approx(found["picture"] + found["code"], rel=1e-5)
    assert "data:image/png" in (tmp_path / "vae" / "report.html").read_text(encoding="utf-8")
    picture = capsys.readouterr().out.rstrip("\n").split("\n")[-8:]
    assert {len(line) for line in picture} == {8 * 8 * 2}


def test_gan_trains_both():
    states = gan.new_states()
    after, losses = jax.jit(gan.step)(states, jnp.zeros((4, 64)))
    assert set(losses) == {"generator", "discriminator"}
    for before, later in zip(states, after, strict=True):
        assert int(later.step) == 1
        assert not jax.tree.all(jax.tree.map(jnp.array_equal, before.params, later.params))
    assert gan.nearest(np.eye(3), np.zeros((1, 3))) == 1


def test_diffusion_draws_what_it_is_told(capsys, monkeypatch):
    monkeypatch.setattr(diffusion, "Flow", functools.partial(diffusion.Flow, width=16, depth=1))
    loss, right = diffusion.main(steps=2, batch=32)
    assert loss > 0
    assert 0 <= right <= 1
    assert "200 drawn digits" in capsys.readouterr().out


def test_an_attack_raises_the_loss_within_its_size():
    examples = {"x": jnp.asarray(np.random.default_rng(0).uniform(0, 16, (8, 64)), jnp.float32), "y": jnp.arange(8)}
    seen = []

    def attack(model, batch):
        change = adversarial.worst(model, batch, 3)
        seen.append(jnp.abs(change).max())
        return adversarial.losses_of(model, batch, change)[0], {"size": seen[-1]}

    params = adversarial.Net().init(jax.random.key(0), examples["x"])["params"]
    state = TrainState.create(apply_fn=adversarial.Net().apply, params=params, tx=optax.sgd(0.1))
    plain = train.evaluate(state, [examples], adversarial.plain)["loss"]
    found = train.evaluate(state, [examples], attack)
    assert found["loss"] > plain
    assert found["size"] == pytest.approx(adversarial.SIZE)
    _, metrics = jax.jit(train.make_step(adversarial.hardened))(state, examples)
    assert set(metrics) == {"loss", "accuracy", "under attack"}


def test_lstm_does_not_see_padding(capsys):
    found = lstm.main(steps=2, batch=8, count=20)
    assert set(found) == {"loss", "accuracy"}
    assert "of 4 lines" in capsys.readouterr().out
    told = lstm.padded(["a line of so many letters"])
    variables = lstm.Reader().init(jax.random.key(0), told["letters"], told["lengths"])
    more = told["letters"].copy()
    more[0, told["lengths"][0] :] = 99
    logits = [lstm.Reader().apply(variables, letters, told["lengths"]) for letters in (told["letters"], more)]
    np.testing.assert_array_equal(*logits)


def test_actor_critic_knows_how_long_a_game_lasts(capsys):
    found = actor_critic.main(updates=5)
    assert found.shape == (100,)
    assert 5 < found.mean() < actor_critic.LONGEST
    assert capsys.readouterr().out.count("a game lasts") == 5


def test_resnet_reads_idx_files(tmp_path, capsys, monkeypatch):
    draw = np.random.default_rng(0)
    for part, count in (("train", 8), ("t10k", 4)):
        pixels, labels = draw.integers(0, 256, (count, 28, 28)), draw.integers(0, 10, count)
        for name, head, values in (("images-idx3", 16, pixels), ("labels-idx1", 8, labels)):
            content = bytes(head) + values.astype(np.uint8).tobytes()
            (tmp_path / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(resnet, "ResNet", functools.partial(resnet.ResNet, widths=(4, 8)))
    found = resnet.main(tmp_path, epochs=1, batch=4)
    assert 0 <= found["accuracy"] <= 1
    assert "of the test images are right" in capsys.readouterr().out
    image = jnp.arange(28 * 28.0).reshape(1, 28, 28)
    moved = resnet.moved(jax.random.key(0), image)[0]
    assert {float(value) for value in moved.ravel()} <= {0.0, *map(float, image.ravel())}


def test_minilm_reads_its_words_and_trains_adapters_and_a_head(tmp_path, monkeypatch):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "caf", "##e", "good", ",", "bad"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokens = minilm_lora.tokens_of("Good, café GOOD? " + "bad " * 40, vocabulary)
    assert tokens[:9].tolist() == [2, 6, 7, 4, 5, 6, 1, 8, 8]
    assert tokens[-1] == 3
    assert tokens.shape == (minilm_lora.LENGTH,)

    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    for name, value in (("VOCABULARY", len(words)), ("WIDTH", 24), ("LAYERS", 1)):
        monkeypatch.setattr(minilm_lora.minilm, name, value)
    monkeypatch.setattr(minilm_lora.minilm, "load", untrained)
    monkeypatch.setattr(minilm_lora, "KERNELS", ["encoder/layer_0/intermediate/kernel"])
    reviews = "1\t0.5\tgood\n2\t-0.5\tbad\n" * 10
    pack(tmp_path / "reviews.tar.gz", reviews)
    found = minilm_lora.main(tmp_path, tmp_path / "reviews.tar.gz", steps=1, batch=4, count=20)
    assert 0 <= found["accuracy"] <= 1


def untrained(path):
    tokens = jnp.zeros((1, minilm_lora.LENGTH), jnp.int32)
    return minilm_lora.minilm.MiniLM().init(jax.random.key(5), tokens, tokens == 0)


def pack(path, text):
    """Write the archive within the archive."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        add(archive, "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt", text.encode())
    with tarfile.open(path, "w:gz") as archive:
        add(archive, "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())


def add(archive, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
