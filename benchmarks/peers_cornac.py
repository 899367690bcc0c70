"""Peers from cornac: its multimodal models, fed the same encodings as ours.

With the library's defaults, as the other peers are.
"""

from collections import OrderedDict

import numpy as np
from scipy import sparse

from recsys.histories import Float32


def vbpr(taken: sparse.csr_matrix, vectors: Float32, asked: np.ndarray, seed: int, threads: int) -> np.ndarray:
    """VBPR: matrix factorisation by BPR whose items also have what their vectors say.

    Args:
        taken: users × items, 0 and 1.
        vectors: of each item, a picture's or words' encoding, float32 [n, d].
        asked: users to answer.
        seed, threads: of training.
    Returns:
        Scores float32 [len(asked), n]; an item that nobody took has what its vector says.

    Source: He and McAuley 2016, arXiv:1510.01784.
    """
    import torch
    from cornac.data import Dataset, ImageModality
    from cornac.models import VBPR

    torch.set_num_threads(threads)
    n_users, n_items = taken.shape
    pairs = zip(*(places.tolist() for places in taken.nonzero()), np.ones(taken.nnz).tolist())
    # All users and items, also those without a pair, and each under its own number.
    users, items = (OrderedDict((number, number) for number in range(count)) for count in (n_users, n_items))
    train = Dataset.build(pairs, global_uid_map=users, global_iid_map=items, seed=seed)
    pictures = ImageModality(features=vectors, ids=list(range(n_items)), normalized=True)
    pictures.build(id_map=items)
    train.add_modalities(item_image=pictures)
    model = VBPR(verbose=False, seed=seed).fit(train)
    scores: Float32 = np.stack([model.score(user) for user in asked.tolist()])
    return scores
