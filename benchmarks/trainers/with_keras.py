"""The three tasks with Keras ``fit``."""

# model
import os

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras

from benchmarks.trainers.digits import BATCH, EPOCHS, digits

training, test = digits()


def new_model(**options):
    model = keras.Sequential(
        [
            keras.Input((64,)), keras.layers.Dense(64), keras.layers.BatchNormalization(), keras.layers.ReLU(),
            keras.layers.Dropout(0.2), keras.layers.Dense(10, dtype="float32"),
        ]
    )  # fmt: skip
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3, **options), loss, metrics=["accuracy"])
    return model


# plain
def plain(folder):
    keras.utils.set_random_seed(0)
    model = new_model()
    model.fit(
        training["x"], training["y"], BATCH, EPOCHS, validation_data=(test["x"], test["y"]), verbose=0,
        callbacks=[keras.callbacks.CSVLogger(f"{folder}/log.csv", append=True)],
    )  # fmt: skip
    return model


# more
def more(folder):
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = new_model(global_clipnorm=1.0, gradient_accumulation_steps=2, use_ema=True, ema_momentum=0.99)
    model.fit(
        training["x"], training["y"], BATCH // 2, EPOCHS, validation_data=(test["x"], test["y"]), verbose=0,
        callbacks=[
            keras.callbacks.CSVLogger(f"{folder}/log.csv", append=True),
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            keras.callbacks.EarlyStopping("val_loss", patience=3),
            keras.callbacks.ModelCheckpoint(f"{folder}/best.keras", "val_loss", save_best_only=True),
        ],
    )  # fmt: skip
    return model


# resumed
def resumed(folder, hook):
    keras.utils.set_random_seed(0)
    model = new_model()
    backup = keras.callbacks.BackupAndRestore(f"{folder}/backup", save_freq=10, delete_checkpoint=False)
    model.fit(training["x"], training["y"], BATCH, EPOCHS, verbose=0, callbacks=[backup, hook])
    return model


# end
def weights(model):
    """Return the weights of a run that has ended, as arrays."""
    return model.get_weights()


def accuracy(model, folder):
    """Return the share of test images that are right."""
    del folder
    return model.evaluate(test["x"], test["y"], verbose=0)[1]


def ending(at, end):
    """Return what ends the process after a step."""

    class End(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            del batch, logs
            if int(self.model.optimizer.iterations) == at:
                end()

    return End()
