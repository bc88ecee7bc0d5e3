"""Speed and quality measurements that a person runs; results are kept as dated Markdown."""
