"""What every floor above it uses: parameters, how a stage ends, files, console, randomness."""
