"""Peers from cornac: its multimodal models, fed the same encodings as ours.

With the library's defaults, as the other peers are.
"""

from collections import OrderedDict

import numpy as np
from scipy import sparse

from recsys.histories import Float32

MODELS = ("VBPR", "CausalRec")
_ADDED_TO = ("beta_item", "beta_item_mean", "visual_bias")  # by CausalRec.score(), for every later user (cornac 3.0.1)


def visual_model(
    name: str, taken: sparse.csr_matrix, vectors: Float32, asked: np.ndarray, seed: int, threads: int
) -> Float32:
    """Matrix factorisation by BPR whose items also have what their vectors say.

    Args:
        name: "VBPR", or "CausalRec": much the same, but what a look alone would sell is taken off again.
        taken: users × items, 0 and 1.
        vectors: of each item, a picture's or words' encoding, float32 [n, d].
        asked: users to answer.
        seed, threads: of training.
    Returns:
        Scores float32 [len(asked), n]. VBPR's of an item that nobody took are what its vector says.

    Source: He and McAuley 2016, arXiv:1510.01784; Qiu et al. 2021, arXiv:2107.02390.
    """
    import torch
    from cornac.data import Dataset, ImageModality
    from cornac.models import VBPR, CausalRec

    torch.set_num_threads(threads)
    n_users, n_items = taken.shape
    pairs = zip(*(places.tolist() for places in taken.nonzero()), np.ones(taken.nnz).tolist())
    # All users and items, also those without a pair, and each under its own number.
    users, items = (OrderedDict((number, number) for number in range(count)) for count in (n_users, n_items))
    train = Dataset.build(pairs, global_uid_map=users, global_iid_map=items, seed=seed)
    pictures = ImageModality(features=vectors, ids=list(range(n_items)), normalized=True)
    pictures.build(id_map=items)
    train.add_modalities(item_image=pictures)
    model = {
        "VBPR": lambda: VBPR(verbose=False, seed=seed),
        "CausalRec": lambda: CausalRec(verbose=False, seed=seed, mean_feat=vectors.mean(axis=0).tolist()),
    }[name]()
    model.fit(train)
    learned = {each: getattr(model, each) for each in _ADDED_TO if hasattr(model, each)}
    scores = np.empty((len(asked), n_items), np.float32)
    for place, user in enumerate(asked.tolist()):
        for each, values in learned.items():
            setattr(model, each, values.copy())
        scores[place] = model.score(user)
    return scores
