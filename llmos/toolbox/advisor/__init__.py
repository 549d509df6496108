"""What is wrong with this machine: measure (facts), judge (findings), suggest (typed calls).

facts and findings are pure; measure alone looks at the machine.
"""
