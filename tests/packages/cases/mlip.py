"""mlip: a network over atoms, its energy and forces, and a gradient."""

import jax
import numpy as np
from mlip.data import DatasetInfo
from mlip.models import ForceField, Mace

info = DatasetInfo(
    atomic_energies_map={1: -1.0, 8: -4.0},
    graph_cutoff_angstrom=3.0,
    avg_num_neighbors=2.0,
    avg_r_min_angstrom=1.0,
    scaling_mean=0.0,
    scaling_stdev=1.0,
)
config = Mace.Config(
    num_layers=2, num_channels=4, l_max=2, correlation=2, radial_mlp_hidden=[8], readout_irreps=["4x0e", "0e"]
)
field = ForceField.from_mlip_network(Mace(config=config, dataset_info=info), seed=0)
print("parameters", sum(np.size(leaf) for leaf in jax.tree.leaves(field.params)))
print("values", sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(field.params)))
