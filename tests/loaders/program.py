"""A run of 30 steps over data of one library: ``python program.py FOLDER KIND STEP``, killed after that step."""

import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if sys.argv[2].startswith("hf"):  # which finds PyTorch where it is, and needs none
    os.environ["USE_TORCH"] = "0"

import jax
import jax.numpy as jnp
import numpy as np

from batiste import train


def rows(count):
    return [{"x": float(n) ** 0.5, "n": n} for n in range(count)]


class Rows:
    """Examples by number: of PyTorch and of grain."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, n):
        return {"x": np.float32(n) ** np.float32(0.5), "n": np.int32(n), "text": f"row {n}"}

    def __repr__(self):
        return f"Rows({self.count})"


def hf_map():
    import datasets

    return train.from_datasets(datasets.Dataset.from_list(rows(50)), 4, seed=3)


def hf_text():
    import datasets

    given = [{**row, "text": f"row {row['n']}", "many": [1, 2]} for row in rows(50)]
    return train.from_datasets(datasets.Dataset.from_list(given), 4, seed=None)


def hf_iterable():
    import datasets

    return train.from_datasets(datasets.Dataset.from_list(rows(50)).to_iterable_dataset(num_shards=5), 4)


def hf_shards():
    import datasets

    data = datasets.Dataset.from_list(rows(50)).to_iterable_dataset(num_shards=5)
    return train.from_datasets(data.shuffle(seed=1, buffer_size=1), 4)


def hf_generator():
    import datasets

    return train.from_datasets(datasets.IterableDataset.from_generator(lambda: iter(rows(50))), 4)


def hf_buffer():
    import datasets

    data = datasets.Dataset.from_list(rows(200)).to_iterable_dataset(num_shards=5)
    return train.from_datasets(data.shuffle(seed=1, buffer_size=20), 4)


def torch_plain():
    from torch.utils.data import DataLoader

    return train.from_torch(DataLoader(Rows(50), batch_size=4, drop_last=True))


def torch_workers():
    from torch.utils.data import DataLoader

    return train.from_torch(DataLoader(Rows(50), 4, drop_last=True, num_workers=2, multiprocessing_context="spawn"))


def torch_sampler():
    from torch.utils.data import DataLoader, DistributedSampler

    data = Rows(50)
    order = DistributedSampler(data, num_replicas=1, rank=0, seed=5)
    return train.from_torch(DataLoader(data, batch_size=4, drop_last=True, sampler=order))


def torch_random():
    from torch.utils.data import DataLoader

    return train.from_torch(DataLoader(Rows(50), batch_size=4, shuffle=True))


def torch_stateful():
    import torch
    from torchdata.stateful_dataloader import StatefulDataLoader

    torch.manual_seed(7)
    return train.from_torch(StatefulDataLoader(Rows(50), batch_size=4, drop_last=True, shuffle=True))


def torch_stateful_workers():
    import torch
    from torchdata.stateful_dataloader import StatefulDataLoader

    torch.manual_seed(7)
    more = {"num_workers": 2, "multiprocessing_context": "spawn"}
    return train.from_torch(StatefulDataLoader(Rows(50), batch_size=4, drop_last=True, shuffle=True, **more))


def tf_plain():
    import tensorflow as tf

    data = tf.data.Dataset.range(50).map(lambda n: {"x": tf.sqrt(tf.cast(n, tf.float32)), "n": n})
    return train.from_tf(data.shuffle(20, seed=5).batch(4, drop_remainder=True), again=True)


def tf_repeat():
    import tensorflow as tf

    data = tf.data.Dataset.range(50).map(lambda n: {"x": tf.sqrt(tf.cast(n, tf.float32)), "n": n})
    return train.from_tf(data.shuffle(50, seed=5).repeat().batch(4).prefetch(2))


def tf_unseeded():
    import tensorflow as tf

    data = tf.data.Dataset.range(50).map(lambda n: {"x": tf.sqrt(tf.cast(n, tf.float32)), "n": n})
    return train.from_tf(data.shuffle(50).repeat().batch(4))


def without_text(row):
    return {"x": row["x"], "n": row["n"]}


def grain_map():
    import grain

    data = grain.MapDataset.source(Rows(50)).map(without_text).shuffle(seed=4).repeat().batch(4)
    return train.from_grain(data)


def grain_iter():
    import grain

    data = grain.MapDataset.source(Rows(50)).map(without_text).shuffle(seed=4).repeat().to_iter_dataset().batch(4)
    return train.from_grain(data)


def grain_workers():
    import grain

    data = grain.MapDataset.source(Rows(50)).map(without_text).shuffle(seed=4).repeat().batch(4)
    return train.from_grain(data, workers=2)


def grain_loader(workers=0):
    import grain

    source = Rows(50)
    order = grain.samplers.IndexSampler(50, shard_options=grain.sharding.NoSharding(), shuffle=True, seed=2)

    class WithoutText(grain.transforms.Map):
        def map(self, row):
            return without_text(row)

    steps = [WithoutText(), grain.transforms.Batch(4, drop_remainder=True)]
    return train.from_grain(grain.DataLoader(data_source=source, sampler=order, operations=steps, worker_count=workers))


def grain_loader_workers():
    from absl import flags

    flags.FLAGS.mark_as_parsed()
    return grain_loader(2)


def grain_ahead():
    return train.prefetch(grain_map())


def step(state, batch):
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), state["n"]))
    seen = {f"row{n}": batch["n"][n] for n in range(4)}
    return {"n": state["n"] + 1, "sum": jnp.sin(state["sum"]) + batch["x"].sum() + noise}, seen


def main(folder, kind, at):
    start = {"n": jnp.int32(0), "sum": jnp.float32(0)}
    more = {"steps": 30, "run": folder, "save_every": 5, "log_every": 3, "compile_cache": False, "log": None}
    loop = train.Loop(step, start, globals()[kind](), **more)
    with Path(f"{folder}.txt").open("a", encoding="utf-8") as file:
        for n, seen in loop:
            print(n, *(int(seen[f"row{each}"]) for each in range(4)), file=file, flush=True)
            if n == int(at):
                os.kill(os.getpid(), signal.SIGKILL)
        print(n, np.asarray(loop.state["sum"]).tobytes().hex(), file=file)


if __name__ == "__main__":
    main(*sys.argv[1:])
