"""The three tasks with the ``Trainer`` of Hugging Face's transformers."""

# model
import torch
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments, set_seed
from transformers.modeling_outputs import SequenceClassifierOutput

from benchmarks.trainers.digits import BATCH, EPOCHS, digits


class Rows(Dataset):
    def __init__(self, part):
        self.part = part

    def __len__(self):
        return len(self.part["x"])

    def __getitem__(self, n):
        return {"x": torch.tensor(self.part["x"][n]), "labels": int(self.part["y"][n])}


training, test = map(Rows, digits())


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.BatchNorm1d(64), torch.nn.ReLU(), torch.nn.Dropout(0.2),
            torch.nn.Linear(64, 10),
        )  # fmt: skip

    def forward(self, x, labels=None):
        logits = self.layers(x)
        loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def accuracy_of(found):
    return {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())}


# plain
def plain(folder):
    set_seed(0)
    model = Net()
    options = TrainingArguments(
        folder, num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH, learning_rate=1e-3, optim="adamw_torch",
        lr_scheduler_type="constant", eval_strategy="epoch", logging_strategy="epoch", max_grad_norm=0.0,
        report_to=[], use_cpu=True,
    )  # fmt: skip
    Trainer(model, options, train_dataset=training, eval_dataset=test, compute_metrics=accuracy_of).train()
    return model


# more
class Average(Trainer):  # it has none of its own
    def create_optimizer(self, *args, **options):
        found = super().create_optimizer(*args, **options)
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
        self.averaged = torch.optim.swa_utils.AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        found.register_step_post_hook(lambda *_: self.averaged.update_parameters(self.model))
        return found

    def evaluate(self, *args, **options):
        own, self.model = self.model, self.averaged.module
        try:
            return super().evaluate(*args, **options)
        finally:
            self.model = own


def more(folder):
    set_seed(0)
    model = Net()
    options = TrainingArguments(
        folder, num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH // 2, gradient_accumulation_steps=2,
        learning_rate=1e-3, optim="adamw_torch", lr_scheduler_type="constant", eval_strategy="epoch",
        logging_strategy="epoch", save_strategy="best", load_best_model_at_end=True, metric_for_best_model="loss",
        max_grad_norm=1.0, bf16=True, report_to=[], use_cpu=True,
    )  # fmt: skip
    trainer = Average(
        model, options, train_dataset=training, eval_dataset=test, compute_metrics=accuracy_of,
        callbacks=[EarlyStoppingCallback(3)],
    )  # fmt: skip
    trainer.train()
    return model


# resumed
def resumed(folder, hook):
    set_seed(0)
    model = Net()
    options = TrainingArguments(
        folder, num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH, learning_rate=1e-3, optim="adamw_torch",
        lr_scheduler_type="constant", save_strategy="steps", save_steps=10, max_grad_norm=0.0, report_to=[],
        use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(model, options, train_dataset=training, callbacks=[hook])
    trainer.train(resume_from_checkpoint=bool(list(__import__("pathlib").Path(folder).glob("checkpoint-*"))))
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
        logits = model.layers(torch.tensor(test.part["x"])).numpy()
    return float((logits.argmax(-1) == test.part["y"]).mean())


def ending(at, end):
    """Return what ends the process after a step."""
    from transformers import TrainerCallback

    class End(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            del args, control
            if state.global_step == at:
                end()

    return End()
