r"""CEB on scikit-learn's digits (the MNIST experiment made small; no download).

python -m launch.train --config=configs/digits_ceb.py \
    --workdir=runs/digits_ceb

@@RESULT@@
"""

from configs import common


def get_config(preset: str = ""):
    """Returns the config; `preset` is what follows the colon of --config."""
    return common.digits("ceb", preset)
