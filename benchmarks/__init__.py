"""Time, memory and accuracy of mi_ext beside plain PyTorch: `python -m benchmarks [--family in_batch,…] [--quick]`.

One file per family of workloads, each with `rows(effort)`; how they are measured is in `harness` and `peak_memory`,
what mi_ext is compared with in `competitors`, how results are written in `report`.
"""
