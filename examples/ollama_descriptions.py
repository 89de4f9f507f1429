"""
Descriptions by a language model
================================

A class whose name does not fit its images gets a description of what it looks like. A language
model can write it. This page is not run when the documentation is built: it needs an `Ollama
<https://ollama.com>`_ server, with a model pulled (``ollama pull llama3.2``).
"""

# sphinx_gallery_thumbnail_path = "images/descriptions.png"

from pathlib import Path

from capkit import CAPClassifier
from capkit.describers import OllamaDescriber, TableDescriber, save_descriptions

images = sorted(Path("my_images").glob("**/*.jpg"))
names = ["annual crop land", "forest", "highway", "industrial buildings", "pasture", "river"]

# %%
# The model is asked once for each mismatched class; its answers are kept on disk. Saying what
# kind of pictures they are helps: ``{class_name}`` and ``{n}`` are filled in.

describer = OllamaDescriber(
    model="llama3.2",
    prompt=(
        "What does {class_name} look like in a satellite photo? Write {n} descriptions of 5 to 15 "
        "words. Name only what can be seen from above."
    ),
    cache_dir="capkit_cache",
)
model = CAPClassifier(
    backbone="ViT-B-32/openai", tuning="adapter", describer=describer, random_state=0
)
model.fit(images, class_names=names)

for name, description in model.descriptions_.items():
    print(name, "->", description)

# %%
# What a language model says is not always what is there. Write all its answers to a file,
# correct them, and use the file from then on:

save_descriptions("descriptions.csv", describer.describe(names, 8))

# %%
# ... after editing descriptions.csv:

model.set_params(describer=TableDescriber("descriptions.csv"))
model.fit(images, class_names=names)
