from p2fit.cli import main

main()
