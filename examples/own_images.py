"""
Your own folder of images, with real CLIP weights
=================================================

Labels the images of a folder. Nothing is known about them but the names of the classes. This page
is not run when the documentation is built, as it downloads the weights of a model.
"""

# sphinx_gallery_thumbnail_path = "images/report.png"

import csv
from pathlib import Path

from capkit import CAPClassifier, CLIPEncoder

images = sorted(Path("my_images").glob("**/*.jpg"))
names = ["annual crop land", "forest", "highway", "industrial buildings", "pasture", "river"]

# %%
# Without a GPU
# -------------
# Adapters are trained on features that are computed once and kept in ``cache_dir``: a second
# run, or one with a few more images, encodes only what is new. How images and names are encoded
# is the encoder's affair.

encoder = CLIPEncoder(
    backbone="ViT-B-32/openai",
    template="a centered satellite photo of {}",
    cache_dir="capkit_cache",
)
model = CAPClassifier(encoder=encoder, tuning="adapter", random_state=0, verbose=1)
model.fit(images, class_names=names)

print("classes whose name did not fit their images:", model.mismatched_names_)

# %%
# The labels, most doubtful first, to look at:

confidence = model.predict_proba(images).max(axis=1)
labels = model.predict(images)
with open("labels.csv", "w", newline="") as stream:
    writer = csv.writer(stream)
    writer.writerow(["path", "label", "confidence"])
    for row in confidence.argsort():
        writer.writerow([images[row], labels[row], f"{confidence[row]:.3f}"])

# %%
# With a GPU
# ----------
# The paper's way: prompts in both towers of the model. Training writes its state after each
# epoch; if it is stopped, run the same lines again.

model = CAPClassifier(
    encoder=encoder,
    tuning="prompt",
    checkpoint_dir="capkit_checkpoint",
    random_state=0,
    verbose=1,
)
model.fit(images, class_names=names)
model.save("satellite.capkit")
