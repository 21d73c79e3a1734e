"""scvi-tools: its model with Flax, trained for an epoch on counts, and what it says of cells."""

import anndata
import numpy as np
import scvi

rng = np.random.default_rng(0)
cells = anndata.AnnData(rng.poisson(2.0, (8, 5)).astype(np.float32))
scvi.settings.seed = 0
scvi.settings.verbosity = 40
model_class = scvi.external.JaxSCVI if hasattr(scvi.external, "JaxSCVI") else scvi.model.JaxSCVI
model_class.setup_anndata(cells)
model = model_class(cells, n_latent=2, n_hidden=4)
model.train(max_epochs=1, accelerator="cpu", batch_size=8, enable_progress_bar=False, check_val_every_n_epoch=None)
print("latent", float(abs(model.get_latent_representation()).sum()))
