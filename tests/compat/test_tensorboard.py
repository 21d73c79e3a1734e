"""`flax.metrics.tensorboard`: what is written is what TensorBoard reads."""

import io
import sys
import wave

import jax.numpy as jnp
import numpy as np
import pytest

from batiste.compat.flax._events import protos, read_events, read_scalars
from batiste.compat.flax.metrics.tensorboard import SummaryWriter
from batiste.errors import MissingPackageError


def test_without_tensorboardx(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingPackageError, match="pip install tensorboardX"):
        SummaryWriter(tmp_path)


@pytest.fixture
def writer(tmp_path):
    """Return a writer into a folder, where the optional package that it needs is installed."""
    pytest.importorskip("tensorboardX", reason="tensorboardX is optional, and not installed")
    writer = SummaryWriter(tmp_path)
    yield writer
    writer.close()


def written(folder):
    """Return the values in a folder's event files with their steps, by tag."""
    return {value.tag: (event.step, value) for event in read_events(folder) for value in event.summary.value}


def decoded(value):
    """Return the pixels of an image."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))


def test_scalars(writer, tmp_path):
    writer.scalar("loss", jnp.float32(2.5), 3)
    writer.scalar("loss", 1, jnp.int32(4))
    assert [entry[1:] for entry in read_scalars(tmp_path)["loss"]] == [(3, 2.5), (4, 1.0)]


@pytest.mark.parametrize(
    ("shape", "count"), [((4, 5), 1), ((4, 5, 1), 1), ((4, 5, 3), 1), ((2, 4, 5), 2), ((5, 4, 5, 3), 3)], ids=str
)
def test_images(writer, tmp_path, shape, count):
    pixels = np.random.default_rng(0).random(shape, np.float32)
    writer.image("x", pixels, 1)
    writer.image("levels", (pixels * 255.5).astype(np.uint8), 1)
    found = written(tmp_path)
    assert sum(tag.startswith("x") for tag in found) == count
    last = "x" if count == 1 else f"x/{count - 1}"
    drawn = decoded(found[last][1])
    assert drawn.shape == (4, 5, 3)
    first = pixels.reshape(count if len(shape) == 3 and shape[-1] == 5 else -1, 4, 5, shape[-1] if shape[-1] < 4 else 1)
    assert np.abs(drawn / 255.5 - first[count - 1]).max() < 1 / 255
    assert np.array_equal(drawn, decoded(found[last.replace("x", "levels")][1]))


def test_sounds(writer, tmp_path):
    sound = np.sin(np.arange(100.0)).reshape(1, 100, 1) * 2
    writer.audio("a", sound, 1, sample_rate=8000)
    value = written(tmp_path)["a"][1].audio
    with wave.open(io.BytesIO(value.encoded_audio_string)) as file:
        assert (file.getframerate(), file.getnframes(), file.getnchannels()) == (8000, 100, 1)
        heard = np.frombuffer(file.readframes(100), "<i2") / 32767
    assert np.abs(heard - np.clip(sound.reshape(-1), -1, 1)).max() < 1e-4


def test_histograms(writer, tmp_path):
    writer.histogram("h", jnp.arange(12.0).reshape(3, 4), 2)
    writer.histogram("few", np.arange(12.0), 2, bins=4)
    found = written(tmp_path)
    assert (found["h"][0], found["h"][1].histo.num, found["h"][1].histo.max) == (2, 12, 11)
    assert sum(found["few"][1].histo.bucket) == 12


def test_texts_and_arrays(writer, tmp_path):
    writer.text("t", "**bold**", 4)
    writer.write("numbers", np.arange(3.0), 5)
    metadata = protos("summary_pb2").SummaryMetadata(display_name="shown")
    writer.write("texts", ["a", "b"], 5, metadata)
    writer.write("bytes", [b"a"], 5, metadata.SerializeToString())
    found = written(tmp_path)
    assert found["t/text_summary"][1].tensor.string_val == [b"**bold**"]
    assert np.frombuffer(found["numbers"][1].tensor.tensor_content).tolist() == [0.0, 1.0, 2.0]
    assert found["texts"][1].tensor.string_val == [b"a", b"b"]
    assert [found[tag][1].metadata.display_name for tag in ("texts", "bytes")] == ["shown", "shown"]


def test_hyperparameters(writer, tmp_path):
    writer.hparams({"lr": 0.1, "model": {"depth": 3, "sizes": [1, 2]}, "none": None})
    content = written(tmp_path)["_hparams_/session_start_info"][1].metadata.plugin_data.content
    assert all(name in content for name in (b"lr", b"model.depth", b"model.sizes", b"[1, 2]", b"None"))


def test_flushing(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is optional, and not installed")
    writer = SummaryWriter(tmp_path, auto_flush=False)
    writer.scalar("a", 1.0, 1)
    writer.flush()
    assert list(read_scalars(tmp_path)) == ["a"]
    (file,) = tmp_path.glob("*tfevents*")
    file.write_bytes(file.read_bytes()[:-3])  # as while it is being written
    assert read_scalars(tmp_path) == {}
    writer.close()


BENCHMARK = """
import sys
from absl.testing import absltest
from batiste.compat.flax.testing import Benchmark

class Mine(Benchmark):
    def test_good(self):
        self.report_wall_time(3.5)
        self.report_metrics({"a": 1.5})
        self.report_metric("b", 2.0)
        self.report_extras({"x": "y"})
        self.report_extra("d", "e")
        self.assertBetween(2, 1, 3)
        assert not self.has_outstanding_fails()
        print(self.get_tmp_model_dir())

    def test_bad(self):
        self.assertEqual(1, 2)
        self.assertGreater(1, 2)
        assert self.has_outstanding_fails()
        self.report_metric("late", 1.0)

absltest.main()
"""


def test_benchmarks(start_python, tmp_path):
    process = start_python(BENCHMARK, f"--benchmark_output_dir={tmp_path}")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert str(tmp_path / "Mine.test_good") in out
    assert (tmp_path / "Mine.test_good.json").read_text() == (
        '{"name": "Mine.test_good", "succeeded": true, "metrics": {"a": 1.5, "b": 2.0}, '
        '"extras": {"x": "y", "d": "e"}, "wall_time": 3.5}'
    )
    bad = (tmp_path / "Mine.test_bad.json").read_text()
    assert '"succeeded": false, "metrics": {"late": 1.0}' in bad
    assert "1 != 2\\n1 not greater than 2" in bad
    assert "FAILED (failures=1)" in err
