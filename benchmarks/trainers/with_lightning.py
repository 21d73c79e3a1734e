"""The three tasks with Lightning."""

# model
import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch.optim.swa_utils import get_ema_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.trainers.digits import BATCH, EPOCHS, digits


def loader(part, batch, *, shuffle):
    arrays = TensorDataset(torch.tensor(part["x"]), torch.tensor(part["y"]).long())
    return DataLoader(arrays, batch, shuffle=shuffle)


training, test = digits()


class Net(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.BatchNorm1d(64), torch.nn.ReLU(), torch.nn.Dropout(0.2),
            torch.nn.Linear(64, 10),
        )  # fmt: skip

    def training_step(self, batch, _):
        x, y = batch
        logits = self.layers(x)
        loss = torch.nn.functional.cross_entropy(logits, y)
        self.log_dict({"loss": loss, "accuracy": (logits.argmax(-1) == y).float().mean()})
        return loss

    def validation_step(self, batch, _):
        x, y = batch
        logits = self.layers(x)
        loss = torch.nn.functional.cross_entropy(logits, y)
        self.log_dict({"val_loss": loss, "val_accuracy": (logits.argmax(-1) == y).float().mean()})

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3)


# plain
def plain(folder):
    lightning.seed_everything(0)
    model = Net()
    trainer = lightning.Trainer(max_epochs=EPOCHS, default_root_dir=folder, logger=CSVLogger(folder))
    trainer.fit(model, loader(training, BATCH, shuffle=True), loader(test, len(test["x"]), shuffle=False))
    return model


# more
def more(folder):
    lightning.seed_everything(0)
    model = Net()
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, default_root_dir=folder, logger=CSVLogger(folder), precision="bf16-mixed",
        accumulate_grad_batches=2, gradient_clip_val=1.0,
        callbacks=[
            EarlyStopping("val_loss", patience=3), ModelCheckpoint(monitor="val_loss"),
            WeightAveraging(avg_fn=get_ema_avg_fn(0.99)),
        ],
    )  # fmt: skip
    trainer.fit(model, loader(training, BATCH // 2, shuffle=True), loader(test, len(test["x"]), shuffle=False))
    return model


# resumed
def resumed(folder, hook):
    lightning.seed_everything(0)
    model = Net()
    keep = ModelCheckpoint(folder, every_n_train_steps=10, save_last=True)
    trainer = lightning.Trainer(max_epochs=EPOCHS, logger=CSVLogger(folder), callbacks=[keep, hook])
    trainer.fit(model, loader(training, BATCH, shuffle=True), ckpt_path="last")
    return model


# end
def weights(model):
    """Return the weights of a run that has ended, as arrays."""
    return [value.detach().numpy() for value in model.state_dict().values()]


def accuracy(model, folder):
    """Return the share of test images that are right."""
    del folder
    model.eval()
    with torch.no_grad():
        return float((model.layers(torch.tensor(test["x"])).argmax(-1).numpy() == test["y"]).mean())


def ending(at, end):
    """Return what ends the process after a step."""

    class End(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == at:
                end()

    return End()
