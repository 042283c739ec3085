"""What a package brings: built, installed, booted, upgraded and erased where the machine can."""
