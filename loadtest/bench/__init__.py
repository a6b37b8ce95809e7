"""Compares the gate with its peers in one run: `make bench` (docs/explanation/benchmark.md).

- `__main__`   what is run, by its arguments
- `cells`      the workloads
- `stage`      starts the contenders, each on its cores
- `sampling`   loads one contender and reads the meters; rounds of all
- `idle`       memory of a stream that waits
- `figures`    what design asks for, by name: met, not met, not measured
- `report`     the tables and the JSON
"""
