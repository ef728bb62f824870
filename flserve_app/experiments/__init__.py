"""What is run and measured: single runs, sweeps, benches."""
