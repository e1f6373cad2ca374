"""The DDPG agent: replay memory, exploration noise, actor and critic."""
